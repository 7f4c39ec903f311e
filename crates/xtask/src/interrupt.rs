//! The handling of ^C, SIGTERM and SIGHUP.
//!
//! These signals end this process at once, and watchdogs remove its private clusters. If this process has to clean up
//! itself, or if ^C is meant for the program in the foreground, [`hold`] keeps signals from ending this process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_default;

/// Whether a signal ends this process now.
static FATAL: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Registers the handlers of the signals. Called once, before anything else.
pub fn register() -> Result<()> {
    let fatal = FATAL.get_or_init(|| Arc::new(AtomicBool::new(true)));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        register_conditional_default(signal, fatal.clone())?;
    }
    Ok(())
}

/// While this value exists, signals do not end this process.
pub struct Held(&'static AtomicBool);

/// Keeps signals from ending this process, for as long as the result exists. Programs that are started meanwhile get
/// signals as usual.
pub fn hold() -> Held {
    let fatal = FATAL.get().expect("register was called");
    fatal.store(false, Ordering::SeqCst);
    Held(fatal)
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
