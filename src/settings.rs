//! Every setting of the extension.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

/// `mana_sync.strict_spaces`: writing into a space needs a membership, also where the application did
/// not say which memberships the user has. Only a superuser may set it (per database or role, too):
/// an application role could otherwise take the rule off itself.
static STRICT_SPACES: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Whether [`STRICT_SPACES`] is on.
pub fn strict_spaces() -> bool {
    STRICT_SPACES.get()
}

/// Makes the settings known, and refuses other names with the extension's prefix.
pub fn register() {
    GucRegistry::define_bool_guc(
        c"mana_sync.strict_spaces",
        c"Refuses writes into a space where the user's memberships are not known.",
        c"Off: a user whose memberships the application did not pass may write into any space, under its own name.",
        &STRICT_SPACES,
        GucContext::Suset,
        GucFlags::default(),
    );
    // SAFETY: called while the library is loaded, with a constant string.
    unsafe {
        #[cfg(any(feature = "pg13", feature = "pg14"))]
        pg_sys::EmitWarningsOnPlaceholders(c"mana_sync".as_ptr());
        #[cfg(not(any(feature = "pg13", feature = "pg14")))]
        pg_sys::MarkGUCPrefixReserved(c"mana_sync".as_ptr());
    }
}
