//! What a change may be, so that whatever gets in comes out: every reader can be sent it, and every dump has it.
//!
//! A number of 8 bytes may print as 131 kB, and a value that is nested deep enough cannot be rebuilt. One such change would block
//! all who share its space, and every dump. So the bounds are of the text, and not of what it takes on disk. They hold for
//! `push`, `sync` and `record_change`, and for every INSERT under row security, whose policy calls [`within_bounds`]. A superuser
//! passes by the policy: a restore brings back what was there, under whatever settings.

use crate::error::{Error, MOST_KEY_BYTES};
use crate::function::{Args, sql_function};
use crate::json_text::{Size, with_value};
use crate::jsonb::Raw;
use crate::number::MOST_PLAIN;
use crate::settings;
use pgrx::pg_sys;

sql_function!(mana_sync_within_bounds, pg_finfo_mana_sync_within_bounds, within_bounds);

/// Arrays and objects within each other.
const MOST_DEPTH: usize = 1000;

/// What is wrong with the JSON of a change, of which nothing may be; to be read behind what it is of.
pub fn fault_of_values<const N: usize>(values: [Option<pg_sys::Datum>; N]) -> Option<String> {
    let most = settings::max_change_size();
    let sum = |measure: &dyn Fn(Raw<'_>) -> Size| {
        // SAFETY: the callers pass jsonb.
        let sizes = values.iter().flatten().map(|datum| unsafe { with_value(*datum, measure) }.0);
        sizes.fold(Size::default(), Size::and)
    };
    // Most changes are far from what is allowed. Only of others the strings are looked through.
    let mut size = sum(&|value| {
        let numbers = Size::of_numbers(value);
        Size { text: numbers.text.saturating_add(6 * value.bytes().1.len()), ..numbers }
    });
    if size.text > most {
        size = sum(&Size::of);
    }
    if size.longest_number > MOST_PLAIN {
        Some(format!("has a number of {} characters, more than {MOST_PLAIN}", size.longest_number))
    } else if size.depth > MOST_DEPTH {
        Some(format!("has values nested {} deep, more than {MOST_DEPTH}", size.depth))
    } else if size.text > most {
        Some(format!("has {} bytes of JSON text, more than mana_sync.max_change_size allows ({most})", size.text))
    } else {
        None
    }
}

/// What is wrong with a space to write into.
pub fn fault_of_space(space: &[u8]) -> Option<String> {
    if space.len() > MOST_KEY_BYTES {
        Some(too_long())
    } else if space.contains(&b',') {
        // No reader could name it: a scope keeps its spaces in a comma-separated setting.
        Some("must not contain a comma".into())
    } else {
        None
    }
}

/// What is wrong with an id that is too long.
pub fn too_long() -> String {
    format!("must have at most {MOST_KEY_BYTES} bytes")
}

/// No value that is sent has more bytes than this, as text and as it is stored: a server can send 1 GB, and store 255 MB in an
/// object. What is larger has come in by other ways than those that are bounded; or it is a record, of many changes.
pub const MOST_SENT: usize = 200 << 20;

/// Whether values are too large to be sent, with each number in full.
pub fn is_too_large<'a>(values: impl IntoIterator<Item = Raw<'a>> + Clone) -> bool {
    /// A number of 8 bytes prints as 131 kB: what is this many times smaller need not be measured.
    const GREATEST_FACTOR: usize = 131_072 / 8;
    let stored: usize = values.clone().into_iter().map(|value| value.bytes().1.len()).sum();
    stored > MOST_SENT / GREATEST_FACTOR
        && (stored > MOST_SENT || values.into_iter().map(Size::of).fold(Size::default(), Size::and).text > MOST_SENT)
}

/// Whether a value is nested deeper than those that are let in.
pub fn is_too_deep(value: Raw<'_>) -> bool {
    Size::of(value).depth > MOST_DEPTH
}

/// `mana_sync.within_bounds(app_id, table_name, record_id, space_id, client_id, data, field_timestamps, actor) RETURNS boolean`
///
/// True; or an error (22023) that says what is wrong with which column. NULLs are not its concern.
fn within_bounds(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    for (place, name) in ["app_id", "table_name", "record_id"].into_iter().enumerate() {
        match args.text(place) {
            Some([]) => return Err(Error::Empty(name)),
            Some(text) if text.len() > MOST_KEY_BYTES => return Err(Error::TooLong(name)),
            _ => {}
        }
    }
    check_space(args.text(3))?;
    check_client(args.text(4))?;
    check_values([("data", args.datum(5)), ("field_timestamps", args.datum(6)), ("actor", args.datum(7))])?;
    Ok(Some(true.into()))
}

/// Refuses a space that nobody could read.
pub fn check_space(space: Option<&[u8]>) -> Result<(), Error> {
    match space.and_then(fault_of_space) {
        Some(fault) => Err(Error::OutOfBounds { what: "space_id", fault }),
        None => Ok(()),
    }
}

/// Refuses a client id that is too long.
pub fn check_client(client: Option<&[u8]>) -> Result<(), Error> {
    if client.is_some_and(|client| client.len() > MOST_KEY_BYTES) { Err(Error::TooLong("client_id")) } else { Ok(()) }
}

/// Refuses the JSON of a change: one of its parts, or all of them together.
pub fn check_values(parts: [(&'static str, Option<pg_sys::Datum>); 3]) -> Result<(), Error> {
    let Some(of_all) = fault_of_values(parts.map(|(_, value)| value)) else { return Ok(()) };
    let of_one = parts.into_iter().find_map(|(what, value)| Some((what, fault_of_values([value])?)));
    let (what, fault) = of_one.unwrap_or(("change", of_all));
    Err(Error::OutOfBounds { what, fault })
}
