//! mana_sync
