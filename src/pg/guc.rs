//! Settings ("GUC variables"), and levels of settings.

use super::memory::Memory;
use super::versions;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// Runs `body` on a level of settings. Changes that [`set_on_level`] makes there end with the level. After an error
/// PostgreSQL ends the level.
pub fn with_level<T, E>(body: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let level = open_level();
    let result = body()?;
    close_level(level);
    Ok(result)
}

/// Opens a level of settings.
pub fn open_level() -> Level {
    // SAFETY: an SQL function has a transaction.
    Level(unsafe { pg_sys::NewGUCNestLevel() })
}

/// Ends a level of settings, and all levels inside of it.
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

/// The text of a setting, copied into `memory`; empty if it was never set.
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

/// Whether a setting has a value, which may be a placeholder's.
pub fn exists(name: &CStr) -> bool {
    // SAFETY: `missing_ok` is true. The result is only compared with NULL.
    !unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) }.is_null()
}

/// Refuses settings with the extension's prefix that were not defined.
pub fn reserve_prefix(prefix: &CStr) {
    // SAFETY: called while the library is loaded.
    unsafe { versions::reserve_prefix(prefix) };
}

/// Reads the configuration files again, as every process of the server does on SIGHUP.
pub fn reload() {
    // SAFETY: between transactions.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
}
