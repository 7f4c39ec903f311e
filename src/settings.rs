//! Every setting of the extension, and how settings are changed, for a call or for longer.

use crate::statement::{Spi, Statement};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::time::Duration;

/// `mana_sync.strict_spaces`: a write into a space needs a membership even if the application did not pass the user's
/// memberships. Only a superuser may set it, also for a database or a role: an application role could otherwise turn the rule
/// off for itself.
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

/// `mana_sync.max_schema_version`: `push` and `sync` refuse a changeset or a change of a later version. The log itself stores any
/// version; only the application knows which versions its readers understand.
static MAX_SCHEMA_VERSION: GucSetting<i32> = GucSetting::<i32>::new(1);

/// The latest `schemaVersion` that a pushed change may have.
pub fn max_schema_version() -> i32 {
    MAX_SCHEMA_VERSION.get()
}

/// `mana_sync.max_change_size`, in bytes of JSON text. Only a superuser may set it, because it protects readers from writers.
static MAX_CHANGE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(8 << 20);

/// The maximum number of bytes of JSON text that a change may have.
pub fn max_change_size() -> usize {
    MAX_CHANGE_SIZE.get().max(0) as usize
}

/// `mana_sync.space_of_record`: whether `push` looks up the space of a change that names none.
static SPACE_OF_RECORD: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Whether a change that names no space is recorded in the space of its record.
pub fn space_of_record() -> bool {
    SPACE_OF_RECORD.get()
}

/// `mana_sync.max_page_bytes`, in bytes of text. Everybody may set it, because it protects only the reader who sets it.
static MAX_PAGE_BYTES: GucSetting<i32> = GucSetting::<i32>::new(4 << 20);

/// The number of bytes of text after which a page ends.
pub fn max_page_bytes() -> usize {
    MAX_PAGE_BYTES.get().max(0) as usize
}

/// `mana_sync.wakeup_databases`: a list of names. It has no effect unless the library is preloaded.
static WAKEUP_DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// `mana_sync.wakeup_interval`, in milliseconds.
static WAKEUP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(50);

/// The databases whose listeners are notified.
pub fn wakeup_databases() -> Vec<String> {
    let list = WAKEUP_DATABASES.get().map(|list| list.to_string_lossy().into_owned()).unwrap_or_default();
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// The minimum time between two wake-ups of a listener.
pub fn wakeup_interval() -> Duration {
    Duration::from_millis(WAKEUP_INTERVAL.get().max(0) as u64)
}

/// Defines the settings, and reserves their prefix: PostgreSQL then refuses other names with it.
pub fn register() {
    // SAFETY: `missing_ok`, with a constant string.
    if !unsafe { pg_sys::GetConfigOption(c"mana_sync.strict_spaces".as_ptr(), true, false) }.is_null() {
        PLACEHOLDER.set(Placeholder::Loaded);
    }
    GucRegistry::define_bool_guc(
        c"mana_sync.strict_spaces",
        c"Refuses a write into a space if the memberships of the user are unknown.",
        c"Memberships are unknown if the application passed no spaces. If this setting is off, such a user may write into any space.",
        &STRICT_SPACES,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"mana_sync.max_schema_version",
        c"Sets the greatest schemaVersion that push and sync accept.",
        c"A changeset or change of a later version is refused, so that no device receives changes that it cannot read.",
        &MAX_SCHEMA_VERSION,
        1,
        i32::MAX,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"mana_sync.max_change_size",
        c"Sets the maximum size of a change, in bytes of JSON text.",
        c"A larger change is refused when it is written. Rows that are already in the log remain readable, whatever their size.",
        &MAX_CHANGE_SIZE,
        1024,
        128 << 20,
        GucContext::Suset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_int_guc(
        c"mana_sync.max_page_bytes",
        c"Sets the number of bytes of text after which a page of changes ends.",
        c"A page has at least one change, whatever its size, and at most page_size changes.",
        &MAX_PAGE_BYTES,
        1,
        256 << 20,
        GucContext::Userset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_bool_guc(
        c"mana_sync.space_of_record",
        c"Records a pushed change that names no space in the space of the user's latest change to the same record.",
        c"If this setting is off, such a change is private, and push saves one index look-up for each such record.",
        &SPACE_OF_RECORD,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"mana_sync.wakeup_interval",
        c"Sets the minimum time between two wake-ups of the same listener.",
        c"The next wake-up covers the changes that are written in between.",
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
        c"Sets the databases whose listeners are notified of changes, separated by commas.",
        c"Each of at most 8 databases gets a background worker. This setting has no effect unless the library is preloaded.",
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
