//! Who is asking, and for which spaces.
//!
//! The scope is two settings, which the policies read too (`sql/policies.sql`). A call that names a user runs in a scope
//! of its own: until it ends, or an error ends it, the settings show that one. They are not set for it, which would take
//! longer than to insert a row into an index.

use crate::error::Error;
use crate::function::{Args, sql_function};
use crate::settings;
use pgrx::pg_sys;
use std::borrow::Cow;
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

sql_function!(mana_sync_with_scope, pg_finfo_mana_sync_with_scope, with_scope);
sql_function!(mana_sync_may_write, pg_finfo_mana_sync_may_write, may_write);

static USER: Setting = Setting::new(c"app.current_user_id");
static SPACES: Setting = Setting::new(c"app.current_user_space_ids");

/// A setting that shows the value that a call has for it. (A backend has one thread; the atomics are there for Rust.)
struct Setting {
    name: &'static CStr,
    /// PostgreSQL's variable: NULL, or the value that was set.
    variable: AtomicPtr<c_char>,
    /// The value that the innermost call has for it, or NULL.
    of_call: AtomicPtr<c_char>,
    /// The variable when that call began. If it is another one now, it was set since, which counts more.
    beneath: AtomicPtr<c_char>,
}

impl Setting {
    const fn new(name: &'static CStr) -> Setting {
        Setting {
            name,
            variable: AtomicPtr::new(ptr::null_mut()),
            of_call: AtomicPtr::new(ptr::null_mut()),
            beneath: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn register(&'static self, description: &'static CStr, show: unsafe extern "C-unwind" fn() -> *const c_char) {
        // SAFETY: called while the library is loaded. The strings and the variable are there for good.
        unsafe {
            pg_sys::DefineCustomStringVariable(
                self.name.as_ptr(),
                description.as_ptr(),
                c"mana_sync.with_scope sets it for a transaction.".as_ptr(),
                self.variable.as_ptr(),
                ptr::null(),
                pg_sys::GucContext::PGC_USERSET,
                0,
                None,
                None,
                Some(show),
            );
        }
    }

    fn pointer(&self) -> *const c_char {
        let (variable, of_call) = (self.variable.load(Relaxed), self.of_call.load(Relaxed));
        let shown = if of_call.is_null() || variable != self.beneath.load(Relaxed) { variable } else { of_call };
        if shown.is_null() { c"".as_ptr() } else { shown }
    }

    /// What it shows, or '' where it was never set.
    ///
    /// # Safety
    /// No scope is entered or left and nothing is set while the value is used.
    unsafe fn value<'a>(&self) -> &'a [u8] {
        // SAFETY: a string of PostgreSQL's, or of a call that has not ended.
        unsafe { CStr::from_ptr(self.pointer()).to_bytes() }
    }

    /// Shows another value; returns what [`Setting::restore`] takes.
    fn show(&self, value: &CStr) -> [*mut c_char; 2] {
        let before = [self.of_call.load(Relaxed), self.beneath.load(Relaxed)];
        self.restore([value.as_ptr().cast_mut(), self.variable.load(Relaxed)]);
        before
    }

    fn restore(&self, [of_call, beneath]: [*mut c_char; 2]) {
        self.of_call.store(of_call, Relaxed);
        self.beneath.store(beneath, Relaxed);
    }
}

unsafe extern "C-unwind" fn show_user() -> *const c_char {
    USER.pointer()
}

unsafe extern "C-unwind" fn show_spaces() -> *const c_char {
    SPACES.pointer()
}

/// Makes the settings known. Values that they have as placeholders stay.
pub fn register() {
    USER.register(c"The user whose changes row security shows.", show_user);
    SPACES.register(c"The spaces, comma-separated, whose changes row security shows too.", show_spaces);
}

/// The scope that a call runs in. It ends when it is dropped, by an error too: those of PostgreSQL pass through Rust as
/// panics.
pub struct Scope<'a> {
    /// Never empty.
    pub user: Cow<'a, [u8]>,
    /// Never with an empty one; each once, ascending.
    pub spaces: Vec<Cow<'a, [u8]>>,
    /// Whether it is known which spaces the user is a member of.
    memberships_known: bool,
    /// What the settings show, where it is not what they had shown before.
    shown: Option<Shown>,
}

/// The settings of a call, and what they showed before.
struct Shown {
    user: [*mut c_char; 2],
    spaces: [*mut c_char; 2],
    _values: [CString; 2],
}

impl Shown {
    fn new(user: &[u8], spaces: Vec<u8>) -> Shown {
        let c_string = |value: Vec<u8>| CString::new(value).expect("a text of PostgreSQL has no zero byte");
        let values = [c_string(user.to_vec()), c_string(spaces)];
        Shown { user: USER.show(&values[0]), spaces: SPACES.show(&values[1]), _values: values }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        USER.restore(self.user);
        SPACES.restore(self.spaces);
    }
}

/// `mana_sync.with_scope(user_id text, space_ids text[] DEFAULT '{}')`
///
/// `user_id` NULL is the user of the scope; `space_ids` NULL keeps the spaces of the same user's scope.
fn with_scope(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let scope = Scope::wanted(args.text(0), args.texts(1), false)?;
    settings::set(USER.name, &scope.user, pg_sys::GucAction::GUC_ACTION_LOCAL);
    settings::set(SPACES.name, &scope.spaces.join(&b','), pg_sys::GucAction::GUC_ACTION_LOCAL);
    Ok(Some(pg_sys::Datum::from(0usize)))
}

/// `mana_sync.may_write(user_id text, space_id text)`, the WITH CHECK of the policy. In Rust, so that the
/// library is loaded and `mana_sync.strict_spaces` is the server's, not a placeholder that anybody could set.
fn may_write(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let Some(user) = args.text(0).filter(|user| !user.is_empty()) else { return Ok(Some(false.into())) };
    // SAFETY: nothing is set here. (strict_spaces may read a catalog, behind the last use.)
    let (current, spaces) = unsafe { (USER.value(), SPACES.value()) };
    let may = current == user
        && args.text(1).is_none_or(|space| {
            let mut members = spaces.split(|&byte| byte == b',').filter(|id| !id.is_empty()).peekable();
            match members.peek() {
                Some(_) => members.any(|id| id == space),
                None => !settings::strict_spaces(),
            }
        });
    Ok(Some(may.into()))
}

impl<'a> Scope<'a> {
    /// Enters the scope of a call that names `user` and `spaces`, either of which may be NULL.
    pub fn enter(user: Option<&'a [u8]>, spaces: Option<Vec<Option<&'a [u8]>>>) -> Result<Scope<'a>, Error> {
        let mut scope = Scope::wanted(user, spaces, true)?;
        let joined = scope.spaces.join(&b',');
        // SAFETY: compared at once.
        if unsafe { USER.value() != &*scope.user || SPACES.value() != joined } {
            scope.shown = Some(Shown::new(&scope.user, joined));
        }
        Ok(scope)
    }

    /// The scope that the arguments ask for, in the scope of the two settings.
    fn wanted(
        user: Option<&'a [u8]>,
        spaces: Option<Vec<Option<&'a [u8]>>>,
        same_user_only: bool,
    ) -> Result<Scope<'a>, Error> {
        // SAFETY: copied before anything is entered or set.
        let (current, current_spaces) = unsafe { (USER.value(), SPACES.value()) };
        let user = match user {
            Some([]) => return Err(Error::EmptyUser),
            Some(user) if same_user_only && !current.is_empty() && user != current => return Err(Error::OtherUser),
            Some(user) => Cow::Borrowed(user),
            None if current.is_empty() => return Err(Error::NoScope),
            None => Cow::Owned(current.to_vec()),
        };
        let given = spaces.is_some();
        let mut ids: Vec<&[u8]> = match spaces {
            Some(ids) => ids.into_iter().flatten().collect(),
            // Without a user there is no scope, and the spaces of another user are not this one's.
            None if *user != *current => Vec::new(),
            None => current_spaces.split(|&byte| byte == b',').collect(),
        };
        ids.retain(|id| !id.is_empty());
        if ids.iter().any(|id| id.contains(&b',')) {
            return Err(Error::Comma);
        }
        ids.sort_unstable();
        ids.dedup();
        let memberships_known = given || !ids.is_empty();
        let spaces =
            ids.into_iter().map(|id| if given { Cow::Borrowed(id) } else { Cow::Owned(id.to_vec()) }).collect();
        Ok(Scope { user, spaces, memberships_known, shown: None })
    }

    /// Refuses a write into a space that the user is not a member of.
    pub fn may_write(&self, space: &[u8]) -> Result<(), Error> {
        if self.memberships_known {
            match self.spaces.binary_search_by(|id| (**id).cmp(space)) {
                Ok(_) => Ok(()),
                Err(_) => Err(Error::NotMember),
            }
        } else if settings::strict_spaces() {
            Err(Error::UnknownMemberships)
        } else {
            Ok(())
        }
    }
}
