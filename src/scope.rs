//! The scope: the user who asks, and the spaces of which the user is a member.
//!
//! The scope is kept in two settings, which the policies read too (`sql/policies.sql`). A call that names a user changes these settings on
//! a nesting level of its own (`pg::guc`), and closes the level when it ends, which restores the settings. After an error, the rollback of
//! the transaction or subtransaction restores them.

use crate::error::{Error, MOST_KEY_BYTES};
use crate::pg::datum::Datum;
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::guc::{self, Level};
use crate::pg::memory::Memory;
use crate::settings;
use std::ffi::CStr;

const USER: &CStr = c"app.current_user_id";
const SPACES: &CStr = c"app.current_user_space_ids";

sql_functions!(with_scope, may_write);

/// The scope in which a call runs.
pub struct Scope<'a> {
    /// The id of the user, never empty.
    pub user: &'a [u8],
    /// The ids of the spaces: none of them empty, each once, ascending.
    pub spaces: Vec<&'a [u8]>,
    /// Whether the application has told which spaces the user is a member of. If not, `spaces` is empty.
    memberships_known: bool,
}

/// `mana_sync.with_scope(user_id text, space_ids text[] DEFAULT '{}')`
///
/// Sets the scope of the transaction. If `user_id` is NULL, the user of the current scope stays. If `space_ids` is NULL, the spaces of the
/// current scope stay, unless the user changes: then there are none. Errors: 22023 for an empty user or a space id with a comma; 42501 if
/// `user_id` is NULL and there is no scope.
fn with_scope<'a>(args: &Args<'a>) -> Answer<'a> {
    let scope = Scope::resolve(args.text(0), args.texts(1), Replace::Allowed, current(args.memory()))?;
    guc::set_for_transaction(USER, scope.user);
    guc::set_for_transaction(SPACES, &scope.spaces.join(&b','));
    // The function returns void.
    Ok(Some(Datum::from(0)))
}

/// `mana_sync.may_write(user_id text, space_id text) RETURNS boolean`
///
/// Returns whether the current scope allows a row with this user and space. The WITH CHECK of a policy calls it. It is written in Rust, so
/// that the call loads the library: then `mana_sync.strict_spaces` is a setting of the server, and not a placeholder that anybody could
/// set.
fn may_write<'a>(args: &Args<'a>) -> Answer<'a> {
    let Some(user) = args.text(0).filter(|user| !user.is_empty()) else { return Ok(Some(false.into())) };
    if user.len() > MOST_KEY_BYTES {
        return Err(Error::TooLong("user_id"));
    }
    let memory = args.memory();
    let may = guc::get(USER, memory) == user
        && args.text(1).is_none_or(|space| {
            let mut members =
                guc::get(SPACES, memory).split(|&byte| byte == b',').filter(|id| !id.is_empty()).peekable();
            match members.peek() {
                Some(_) => members.any(|id| id == space),
                None => !settings::strict_spaces(),
            }
        });
    Ok(Some(may.into()))
}

/// Returns the two settings of the current scope: the user, and the spaces separated by commas. Each is empty if it was never set.
fn current(memory: Memory<'_>) -> (&[u8], &[u8]) {
    (guc::get(USER, memory), guc::get(SPACES, memory))
}

/// Whether the user of the current scope may be replaced by another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replace {
    /// [`with_scope`] replaces the scope.
    Allowed,
    /// A call may only run for the user of the current scope.
    Refused,
}

impl<'a> Scope<'a> {
    /// Enters the scope of a call that names `user` and `spaces`, either of which may be NULL. Returns the level of settings that
    /// has to be closed at the end of the call, if the call changed any setting.
    pub fn enter(
        memory: Memory<'a>,
        user: Option<&'a [u8]>,
        spaces: Option<Vec<Option<&'a [u8]>>>,
    ) -> Result<(Scope<'a>, Option<Level>), Error> {
        let current = current(memory);
        let scope = Scope::resolve(user, spaces, Replace::Refused, current)?;
        let joined = scope.spaces.join(&b',');
        let (is_other_user, are_other_spaces) = (current.0 != scope.user, current.1 != joined);
        let level = (is_other_user || are_other_spaces).then(guc::open_level);
        if is_other_user {
            guc::set_on_level(USER, scope.user);
        }
        if are_other_spaces {
            guc::set_on_level(SPACES, &joined);
        }
        Ok((scope, level))
    }

    /// Returns the scope that the arguments name. A NULL argument takes its value from the current scope, whose two settings are the last
    /// argument.
    fn resolve(
        user: Option<&'a [u8]>,
        spaces: Option<Vec<Option<&'a [u8]>>>,
        replace: Replace,
        (current, current_spaces): (&'a [u8], &'a [u8]),
    ) -> Result<Scope<'a>, Error> {
        let user = match user {
            Some([]) => return Err(Error::EmptyUser),
            Some(user) if replace == Replace::Refused && !current.is_empty() && user != current => {
                return Err(Error::OtherUser);
            }
            Some(user) => user,
            None if current.is_empty() => return Err(Error::NoScope),
            None => current,
        };
        let (ids, given): (Vec<&'a [u8]>, bool) = match spaces {
            Some(ids) => (ids.into_iter().flatten().collect(), true),
            // The spaces of the current scope belong to its user and not to another one. Without a user there is no
            // scope.
            None if user != current => (Vec::new(), false),
            None => (current_spaces.split(|&byte| byte == b',').collect(), false),
        };
        let spaces = each_once(ids);
        if spaces.iter().any(|id| id.contains(&b',')) {
            return Err(Error::Comma);
        }
        let memberships_known = given || !spaces.is_empty();
        Ok(Scope { user, spaces, memberships_known })
    }

    /// Whether the application has told which spaces the user is a member of. If not, `spaces` is empty.
    pub fn memberships_known(&self) -> bool {
        self.memberships_known
    }

    /// Whether there is no space that the user may write into.
    pub fn may_write_no_space(&self) -> bool {
        match self.memberships_known {
            true => self.spaces.is_empty(),
            false => settings::strict_spaces(),
        }
    }

    /// Returns an error if the user may not write into a space. Unknown memberships allow every space, unless `mana_sync.strict_spaces` is
    /// on.
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

/// Returns the ids that are not empty, in ascending order and without duplicates.
///
/// Ids are compared by their first eight bytes, as a number, and by all bytes only if these eight are equal. This is fast. It matters
/// because a scope may have a thousand spaces, and every call sorts them.
fn each_once(ids: Vec<&[u8]>) -> Vec<&[u8]> {
    // A shorter id is filled up with zeros. A zero sorts before all other bytes, and so does the end of an id.
    let head = |id: &[u8]| match id.first_chunk() {
        Some(head) => u64::from_be_bytes(*head),
        None => (0..8).fold(0, |head, i| head << 8 | u64::from(id.get(i).copied().unwrap_or(0))),
    };
    let mut ids: Vec<(u64, &[u8])> = ids.into_iter().filter(|id| !id.is_empty()).map(|id| (head(id), id)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|(_, id)| id).collect()
}
