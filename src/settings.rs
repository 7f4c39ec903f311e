//! Every setting of the extension.

use crate::pg::spi::{self, Statement, statement};
use crate::pg::{guc, server};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::CString;
use std::time::Duration;

/// `mana_sync.strict_spaces`: if it is on, a user whose memberships the application did not pass may not write into any space. Only a
/// superuser may set it, also for a database or a role: an application role could otherwise turn the rule off for itself.
static STRICT_SPACES: GucSetting<bool> = GucSetting::<bool>::new(false);

thread_local! {
    /// What the backend knows about the value that `mana_sync.strict_spaces` had before the library was loaded.
    static PLACEHOLDER: Cell<Placeholder> = const { Cell::new(Placeholder::None) };
}

/// What happened to the value that `mana_sync.strict_spaces` had before the library was loaded.
#[derive(Clone, Copy)]
enum Placeholder {
    /// There was no value, or PostgreSQL accepted it.
    None,
    /// There was a value, and it has not been checked whether PostgreSQL accepted it.
    Unchecked,
    /// PostgreSQL refused the value, because whoever set it may not set this setting.
    Refused,
}

/// Whether the rule of [`STRICT_SPACES`] applies.
///
/// Until a backend has loaded the library, the setting is a placeholder, and PostgreSQL accepts everybody's value for it. A value in the
/// connection request (`options=-c mana_sync.strict_spaces=off`) then replaces the value of the role or database. When the library is
/// loaded, PostgreSQL refuses the value of the request, and resets the setting to its default: the value of the role or database is lost.
/// In that case the rule is taken to be on. (With the library in `shared_preload_libraries`, PostgreSQL refuses such a connection.)
pub fn strict_spaces() -> bool {
    if let Placeholder::Unchecked = PLACEHOLDER.get() {
        let Ok(is_default) = spi::connect(|spi| Ok::<_, Infallible>(spi.read(&IS_DEFAULT, &[]).first().is_some()));
        PLACEHOLDER.set(if is_default { Placeholder::Refused } else { Placeholder::None });
    }
    STRICT_SPACES.get() || matches!(PLACEHOLDER.get(), Placeholder::Refused)
}

static IS_DEFAULT: Statement = statement!(
    sql "SELECT 1 FROM pg_catalog.pg_settings AS s
         WHERE s.name OPERATOR(pg_catalog.=) 'mana_sync.strict_spaces' AND s.source OPERATOR(pg_catalog.=) 'default'",
    []
);

/// `mana_sync.max_schema_version`: `push` and `sync` refuse a changeset or a change with a greater schema version. The log itself stores
/// any version, because only the application knows which versions its readers understand.
static MAX_SCHEMA_VERSION: GucSetting<i32> = GucSetting::<i32>::new(1);

/// The latest `schemaVersion` that a pushed change may have.
pub fn max_schema_version() -> i32 {
    MAX_SCHEMA_VERSION.get()
}

/// `mana_sync.max_change_size`: the maximum size of a change, in bytes of JSON text. Only a superuser may set it, because it protects
/// readers from writers.
static MAX_CHANGE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(8 << 20);

/// The maximum number of bytes of JSON text that a change may have.
pub fn max_change_size() -> usize {
    MAX_CHANGE_SIZE.get().max(0) as usize
}

/// `mana_sync.space_of_record`: whether `push` looks up the space of a change that names no space.
static SPACE_OF_RECORD: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Whether a pushed change that names no space is recorded in the space of its record.
pub fn space_of_record() -> bool {
    SPACE_OF_RECORD.get()
}

/// `mana_sync.max_page_bytes`: the number of bytes of text after which a page ends. Everybody may set it, because it protects only the
/// reader who sets it.
static MAX_PAGE_BYTES: GucSetting<i32> = GucSetting::<i32>::new(4 << 20);

/// The number of bytes of text after which a page ends.
pub fn max_page_bytes() -> usize {
    MAX_PAGE_BYTES.get().max(0) as usize
}

/// `mana_sync.wakeup_databases`: the comma-separated names of the databases whose listeners are notified. It has no effect unless the
/// library is preloaded.
static WAKEUP_DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// `mana_sync.wakeup_interval`: the minimum time between two wake-ups of a listener, in milliseconds.
static WAKEUP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(50);

/// The names of the databases whose listeners are notified.
pub fn wakeup_databases() -> Vec<String> {
    let list = WAKEUP_DATABASES.get().map(|list| list.to_string_lossy().into_owned()).unwrap_or_default();
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// The minimum time between two wake-ups of a listener.
pub fn wakeup_interval() -> Duration {
    Duration::from_millis(WAKEUP_INTERVAL.get().max(0) as u64)
}

/// Defines the settings, and reserves the prefix `mana_sync`: PostgreSQL then refuses other settings with this prefix.
pub fn register() {
    if guc::exists(c"mana_sync.strict_spaces") {
        PLACEHOLDER.set(Placeholder::Unchecked);
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
        c"Sets the number of bytes of text after which a page of changes or of records ends.",
        c"A page has at least one change or record, whatever its size, and at most page_size of them.",
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
    let is_preloaded = server::is_preloading();
    GucRegistry::define_string_guc(
        c"mana_sync.wakeup_databases",
        c"Sets the databases whose listeners are notified of changes, separated by commas.",
        c"Each of at most 8 databases gets a background worker. This setting has no effect unless the library is preloaded.",
        &WAKEUP_DATABASES,
        // The setting may have stayed in postgresql.conf of a server that does not preload the library any more. Left undefined it would
        // raise a WARNING in every session, and a setting for the start of the server cannot be defined later.
        if is_preloaded { GucContext::Postmaster } else { GucContext::Sighup },
        GucFlags::default(),
    );
    guc::reserve_prefix(c"mana_sync");
}
