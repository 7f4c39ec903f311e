//! Every setting of the extension, and how settings are changed, for a call or for longer.

use crate::statement::{Spi, Statement};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::time::Duration;

/// `mana_sync.strict_spaces`: writing into a space needs a membership, also where the application did
/// not say which memberships the user has. Only a superuser may set it (per database or role, too):
/// an application role could otherwise take the rule off itself.
static STRICT_SPACES: GucSetting<bool> = GucSetting::<bool>::new(false);

thread_local! {
    /// Whether the setting had a value when the library was loaded, and what became of it.
    static PLACEHOLDER: Cell<Placeholder> = const { Cell::new(Placeholder::None) };
}

#[derive(Clone, Copy)]
enum Placeholder {
    /// It had none, or one that counts.
    None,
    /// It had one.
    Loaded,
    /// It had one that nobody with the right to had set.
    Refused,
}

/// Whether [`STRICT_SPACES`] is on.
///
/// Until a backend has loaded the library the setting is a placeholder, for which PostgreSQL takes
/// everybody's value. A value in the request for the connection (`options=-c mana_sync.strict_spaces=off`)
/// then comes before that of the role or database, which is lost; as the library is loaded, it is
/// refused itself, and the setting is back at its default. In that case the rule is taken to be on.
/// (With the library in shared_preload_libraries, PostgreSQL refuses such a connection.)
pub fn strict_spaces() -> bool {
    if let Placeholder::Loaded = PLACEHOLDER.get() {
        let spi = Spi::connect();
        let refused = spi.read(&AT_DEFAULT, &[]).iter().next().is_some();
        spi.finish();
        PLACEHOLDER.set(if refused { Placeholder::Refused } else { Placeholder::None });
    }
    STRICT_SPACES.get() || matches!(PLACEHOLDER.get(), Placeholder::Refused)
}

static AT_DEFAULT: Statement = Statement::new(
    c"SELECT 1 FROM pg_catalog.pg_settings AS s
      WHERE s.name OPERATOR(pg_catalog.=) 'mana_sync.strict_spaces' AND s.source OPERATOR(pg_catalog.=) 'default'",
    &[],
);

/// `mana_sync.max_schema_version`: a changeset, or a change in it, of a later version is refused. The log stores
/// any version; which ones its readers understand only the application knows.
static MAX_SCHEMA_VERSION: GucSetting<i32> = GucSetting::<i32>::new(1);

/// The latest `schemaVersion` that a pushed change may have.
pub fn max_schema_version() -> i32 {
    MAX_SCHEMA_VERSION.get()
}

/// `mana_sync.max_change_size`: bytes of JSON text. Only a superuser may set it: it protects the readers from the writers.
static MAX_CHANGE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(8 << 20);

/// How many bytes of JSON text a change may have.
pub fn max_change_size() -> usize {
    MAX_CHANGE_SIZE.get().max(0) as usize
}

/// `mana_sync.space_of_record`: whether `push` looks up the space of a change that says none.
static SPACE_OF_RECORD: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Whether a change that says no space is recorded in the space of its record.
pub fn space_of_record() -> bool {
    SPACE_OF_RECORD.get()
}

/// `mana_sync.max_page_bytes`: bytes of text. It protects the reader from itself, who may set it.
static MAX_PAGE_BYTES: GucSetting<i32> = GucSetting::<i32>::new(4 << 20);

/// After how many bytes of text a page ends.
pub fn max_page_bytes() -> usize {
    MAX_PAGE_BYTES.get().max(0) as usize
}

/// `mana_sync.wakeup_databases`: without effect where the library is not preloaded.
static WAKEUP_DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// `mana_sync.wakeup_interval`, in milliseconds.
static WAKEUP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(50);

/// Databases whose listeners are woken.
pub fn wakeup_databases() -> Vec<String> {
    let list = WAKEUP_DATABASES.get().map(|list| list.to_string_lossy().into_owned()).unwrap_or_default();
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// The shortest time between two wake-ups of a listener.
pub fn wakeup_interval() -> Duration {
    Duration::from_millis(WAKEUP_INTERVAL.get().max(0) as u64)
}

/// Makes the settings known, and refuses other names with the extension's prefix.
pub fn register() {
    // SAFETY: `missing_ok`, with a constant string.
    if !unsafe { pg_sys::GetConfigOption(c"mana_sync.strict_spaces".as_ptr(), true, false) }.is_null() {
        PLACEHOLDER.set(Placeholder::Loaded);
    }
    GucRegistry::define_bool_guc(
        c"mana_sync.strict_spaces",
        c"Refuses writes into a space where the user's memberships are not known.",
        c"Off: a user whose memberships the application did not pass may write into any space, under its own name.",
        &STRICT_SPACES,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"mana_sync.max_schema_version",
        c"Latest schemaVersion of changes that push and sync accept.",
        c"A changeset from the future is refused, so that no device gets changes that it cannot read.",
        &MAX_SCHEMA_VERSION,
        1,
        i32::MAX,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"mana_sync.max_change_size",
        c"Most bytes of JSON text that a change may have.",
        c"A larger one is refused where it is written. Rows that are there already can be read, whatever their size.",
        &MAX_CHANGE_SIZE,
        1024,
        128 << 20,
        GucContext::Suset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_int_guc(
        c"mana_sync.max_page_bytes",
        c"Bytes of text after which a page ends.",
        c"A page has at least one change, whatever its size, and at most as many as its page_size.",
        &MAX_PAGE_BYTES,
        1,
        256 << 20,
        GucContext::Userset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_bool_guc(
        c"mana_sync.space_of_record",
        c"Records a pushed change that says no space in the space that the user gave its record last.",
        c"Off: it is private. That saves a look-up for each such record of a push.",
        &SPACE_OF_RECORD,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"mana_sync.wakeup_interval",
        c"Shortest time between two wake-ups of the same listener.",
        c"What is written meanwhile comes with the next one.",
        &WAKEUP_INTERVAL,
        1,
        60_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    // SAFETY: a plain variable of the server.
    let is_preloaded = unsafe { pg_sys::process_shared_preload_libraries_in_progress };
    GucRegistry::define_string_guc(
        c"mana_sync.wakeup_databases",
        c"Databases whose listeners are woken when their log is written to, comma-separated.",
        c"Each has a background worker of its own; at most 8. Without effect where the library is not preloaded.",
        &WAKEUP_DATABASES,
        // Where it is not, the setting may have stayed in postgresql.conf. Not known, it would be a WARNING in every session; and
        // a setting for the start of the server cannot be made known later.
        if is_preloaded { GucContext::Postmaster } else { GucContext::Sighup },
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

/// Opens a level of settings: what [`set_for_call`] changes on it ends with it.
pub fn open_level() -> i32 {
    // SAFETY: within a transaction.
    unsafe { pg_sys::NewGUCNestLevel() }
}

/// Ends a level of settings and all above it.
pub fn close_level(level: i32) {
    // SAFETY: `level` was opened in this call and not closed.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
}

/// Changes a setting on the level that was opened last.
pub fn set_for_call(name: &CStr, value: &[u8]) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
}

/// Changes a setting of this process.
pub fn set_for_session(name: &CStr, value: &[u8]) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_SET);
}

/// Sets a setting for as long as `action` says.
pub fn set(name: &CStr, value: &[u8], action: pg_sys::GucAction::Type) {
    // A text of PostgreSQL has no zero byte.
    let Ok(value) = CString::new(value) else { return };
    // SAFETY: both strings live during the call; a bad value or name is an error, not undefined.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}
