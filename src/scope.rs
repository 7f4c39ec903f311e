//! Who is asking, and for which spaces.
//!
//! The scope is two settings, which the policies read too (`sql/policies.sql`). A call that names a
//! user runs with the settings changed on a level of their own, which ends with the call, or with the
//! transaction or subtransaction that an error ends.

use crate::error::{Error, MOST_KEY_BYTES};
use crate::function::{Args, sql_function};
use crate::settings;
use pgrx::pg_sys;
use std::ffi::CStr;

const USER: &CStr = c"app.current_user_id";
const SPACES: &CStr = c"app.current_user_space_ids";

sql_function!(mana_sync_with_scope, pg_finfo_mana_sync_with_scope, with_scope);
sql_function!(mana_sync_may_write, pg_finfo_mana_sync_may_write, may_write);

/// The scope that a call runs in.
pub struct Scope<'a> {
    /// Never empty.
    pub user: &'a [u8],
    /// Never with an empty one; each once, ascending.
    pub spaces: Vec<&'a [u8]>,
    /// Whether it is known which spaces the user is a member of.
    memberships_known: bool,
    /// The level of settings to leave at the end.
    level: Option<i32>,
}

/// `mana_sync.with_scope(user_id text, space_ids text[] DEFAULT '{}')`
///
/// `user_id` NULL is the user of the scope; `space_ids` NULL keeps the spaces of the same user's scope.
fn with_scope(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let scope = Scope::wanted(args.text(0), args.texts(1), false, (setting(USER), setting(SPACES)))?;
    settings::set(USER, scope.user, pg_sys::GucAction::GUC_ACTION_LOCAL);
    settings::set(SPACES, &scope.spaces.join(&b','), pg_sys::GucAction::GUC_ACTION_LOCAL);
    Ok(Some(pg_sys::Datum::from(0usize)))
}

/// `mana_sync.may_write(user_id text, space_id text)`, the WITH CHECK of the policy. In Rust, so that the
/// library is loaded and the setting is the server's, not a placeholder that anybody could set.
fn may_write(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let Some(user) = args.text(0).filter(|user| !user.is_empty()) else { return Ok(Some(false.into())) };
    if user.len() > MOST_KEY_BYTES {
        return Err(Error::TooLong("user_id"));
    }
    let may = setting(USER) == user
        && args.text(1).is_none_or(|space| {
            let mut members = setting(SPACES).split(|&byte| byte == b',').filter(|id| !id.is_empty()).peekable();
            match members.peek() {
                Some(_) => members.any(|id| id == space),
                None => !settings::strict_spaces(),
            }
        });
    Ok(Some(may.into()))
}

impl<'a> Scope<'a> {
    /// Enters the scope of a call that names `user` and `spaces`, either of which may be NULL.
    /// Leave it with [`Scope::leave`].
    pub fn enter(user: Option<&'a [u8]>, spaces: Option<Vec<Option<&'a [u8]>>>) -> Result<Scope<'a>, Error> {
        let current = (setting(USER), setting(SPACES));
        let mut scope = Scope::wanted(user, spaces, true, current)?;
        let joined = scope.spaces.join(&b',');
        let (is_other_user, are_other_spaces) = (current.0 != scope.user, current.1 != joined);
        if is_other_user || are_other_spaces {
            scope.level = Some(settings::open_level());
        }
        if is_other_user {
            settings::set_for_call(USER, scope.user);
        }
        if are_other_spaces {
            settings::set_for_call(SPACES, &joined);
        }
        Ok(scope)
    }

    /// Leaves the transaction's scope as the call found it.
    pub fn leave(self) {
        if let Some(level) = self.level {
            settings::close_level(level);
        }
    }

    /// The scope that the arguments ask for, in the scope of the two settings.
    fn wanted(
        user: Option<&'a [u8]>,
        spaces: Option<Vec<Option<&'a [u8]>>>,
        same_user_only: bool,
        (current, current_spaces): (&'a [u8], &'a [u8]),
    ) -> Result<Scope<'a>, Error> {
        let user = match user {
            Some([]) => return Err(Error::EmptyUser),
            Some(user) if same_user_only && !current.is_empty() && user != current => return Err(Error::OtherUser),
            Some(user) => user,
            None if current.is_empty() => return Err(Error::NoScope),
            None => current,
        };
        let (ids, given): (Vec<&'a [u8]>, bool) = match spaces {
            Some(ids) => (ids.into_iter().flatten().collect(), true),
            // Without a user there is no scope, and the spaces of another user are not this one's.
            None if user != current => (Vec::new(), false),
            None => (current_spaces.split(|&byte| byte == b',').collect(), false),
        };
        let spaces = each_once(ids);
        if spaces.iter().any(|id| id.contains(&b',')) {
            return Err(Error::Comma);
        }
        let memberships_known = given || !spaces.is_empty();
        Ok(Scope { user, spaces, memberships_known, level: None })
    }

    /// Whether no space may be written into: the user is known to be a member of none.
    pub fn may_write_nowhere(&self) -> bool {
        match self.memberships_known {
            true => self.spaces.is_empty(),
            false => settings::strict_spaces(),
        }
    }

    /// Refuses a write into a space that the user is not a member of.
    pub fn may_write(&self, space: &[u8]) -> Result<(), Error> {
        if self.memberships_known {
            match self.spaces.binary_search(&space) {
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

/// Ids that are not empty, each once, ascending.
///
/// Each is compared by its first eight bytes, as a number, and by all of it only where those are equal: a scope may have a
/// thousand, and every call sorts them.
fn each_once(ids: Vec<&[u8]>) -> Vec<&[u8]> {
    // Zeros behind a shorter one come before everything else, as its end does.
    let head = |id: &[u8]| match id.first_chunk() {
        Some(head) => u64::from_be_bytes(*head),
        None => (0..8).fold(0, |head, i| head << 8 | u64::from(id.get(i).copied().unwrap_or(0))),
    };
    let mut ids: Vec<(u64, &[u8])> = ids.into_iter().filter(|id| !id.is_empty()).map(|id| (head(id), id)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|(_, id)| id).collect()
}

/// A setting, or '' where it was never set, in the current memory context, which is that of a call.
fn setting<'a>(name: &CStr) -> &'a [u8] {
    // SAFETY: `missing_ok`; the string is copied before anything can change it, and the copy stays for the call.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() { &[] } else { CStr::from_ptr(pg_sys::pstrdup(value)).to_bytes() }
    }
}
