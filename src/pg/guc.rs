//! Settings ("GUC variables"), and nesting levels of settings. Changes that are made on a level are undone when the
//! level is closed.

use super::memory::Memory;
use super::versions;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// Runs `body` on a new level of settings. The changes that `body` makes with [`set_on_level`] are undone afterwards.
/// After an error, PostgreSQL undoes them.
pub fn with_level<T, E>(body: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let level = open_level();
    let result = body()?;
    close_level(level);
    Ok(result)
}

/// Opens a new level of settings.
pub fn open_level() -> Level {
    // SAFETY: an SQL function has a transaction.
    Level(unsafe { pg_sys::NewGUCNestLevel() })
}

/// Closes a level of settings, and all levels inside it.
pub fn close_level(Level(level): Level) {
    // SAFETY: `open_level` opened it, and it can be closed only once.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
}

/// A level of settings that is open.
pub struct Level(i32);

/// Changes a setting on the level that was opened last.
pub fn set_on_level(name: &CStr, value: &[u8]) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
}

/// Changes a setting for the transaction, as SET LOCAL.
pub fn set_for_transaction(name: &CStr, value: &[u8]) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_LOCAL);
}

/// Changes a setting of the process, as SET.
pub fn set_for_session(name: &CStr, value: &[u8]) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_SET);
}

fn set(name: &CStr, value: &[u8], action: pg_sys::GucAction::Type) {
    // A text of PostgreSQL has no zero byte.
    let Ok(value) = CString::new(value) else { return };
    // SAFETY: both strings exist during the call. A bad value or name is an error.
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

/// Returns the text of a setting, copied into `memory`; empty if the setting was never set.
pub fn get<'m>(name: &CStr, memory: Memory<'m>) -> &'m [u8] {
    // SAFETY: `missing_ok` is true. The string is copied before anything can change it.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() {
            return &[];
        }
        let value = CStr::from_ptr(value).to_bytes();
        let copy = memory.allocate_bytes(value.len().max(1));
        std::ptr::copy_nonoverlapping(value.as_ptr(), copy, value.len());
        std::slice::from_raw_parts(copy, value.len())
    }
}

/// Whether a setting exists. It may be a placeholder, which PostgreSQL makes for a setting that no library has defined
/// yet.
pub fn exists(name: &CStr) -> bool {
    // SAFETY: `missing_ok` is true. The result is only compared with NULL.
    !unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) }.is_null()
}

/// Makes PostgreSQL refuse settings with this prefix that were not defined. Before version 15, PostgreSQL only warns of
/// those that exist.
pub fn reserve_prefix(prefix: &CStr) {
    // SAFETY: called while the library is loaded.
    unsafe { versions::reserve_prefix(prefix) };
}

/// Reads the configuration files again, as every process of the server does on SIGHUP.
pub fn reload() {
    // SAFETY: between transactions.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
}
