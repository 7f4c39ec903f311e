//! The bounds of a change: whatever is recorded can be sent to every reader, and dumped.
//!
//! A number that is stored in 8 bytes may print as 131 kB, and a value that is nested very deep cannot be rebuilt. One such change would
//! block all who share its space, and every dump. So the bounds limit the text of a change, and not its size on disk. They hold for `push`,
//! `sync` and `record_change`, and for every INSERT under row security, whose policy calls [`within_bounds`]. The policy does not hold for
//! a superuser, so that a restore brings back every row, whatever the settings are.

use crate::error::{Error, MOST_KEY_BYTES};
use crate::json::number::MOST_PLAIN;
use crate::json::text::Size;
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::jsonb::{Jsonb, Node};
use crate::settings;

sql_functions!(within_bounds);

/// The greatest number of arrays and objects that may be nested in each other.
const MOST_DEPTH: usize = 1000;

/// Checks the JSON values of a change together. Returns the end of an error message if they are out of bounds (`has a number of …`), and
/// `None` if they are not.
pub fn fault_of_values<const N: usize>(values: [Option<Jsonb<'_>>; N]) -> Option<String> {
    let most = settings::max_change_size();
    let sum = |measure: &dyn Fn(Node<'_>) -> Size| {
        values.iter().flatten().map(|value| value.with_root(measure).0).fold(Size::default(), Size::and)
    };
    // Most changes are far below the limit. The strings of a change are measured only where it may be above.
    let mut size = sum(&|value| {
        let numbers = Size::of_numbers(value);
        Size { text: numbers.text.saturating_add(6 * value.stored_size()), ..numbers }
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

/// Checks the id of a space. Returns the end of an error message if a change cannot name the space, and `None` if it can.
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

/// Returns the end of the error message for an id that is too long: `must have at most … bytes`.
pub fn too_long() -> String {
    format!("must have at most {MOST_KEY_BYTES} bytes")
}

/// The maximum number of bytes of a value that is sent, both as text and as stored. A server can send 1 GB, and can store 255 MB in a jsonb
/// object. Only a value that a superuser inserted, or a record that was merged from many changes, can be larger.
pub const MOST_SENT: usize = 200 << 20;

/// Whether values together are too large to be sent, with all digits of each number.
pub fn is_too_large<'a>(values: impl IntoIterator<Item = Node<'a>> + Clone) -> bool {
    /// The greatest factor by which values grow when they are printed: a number of 8 bytes prints as 131 kB. Values that are smaller than
    /// the limit by this factor need not be measured.
    const GREATEST_FACTOR: usize = 131_072 / 8;
    let stored: usize = values.clone().into_iter().map(|value| value.stored_size()).sum();
    stored > MOST_SENT / GREATEST_FACTOR
        && (stored > MOST_SENT || values.into_iter().map(Size::of).fold(Size::default(), Size::and).text > MOST_SENT)
}

/// Whether a value is nested deeper than the values of a change may be.
pub fn is_too_deep(value: Node<'_>) -> bool {
    Size::of(value).depth > MOST_DEPTH
}

/// `mana_sync.within_bounds(app_id, table_name, record_id, space_id, client_id, data, field_timestamps, actor, origin) RETURNS boolean`
///
/// Returns true, or raises error 22023 with the column that is out of bounds, and the reason. NULL is within bounds, as in a CHECK.
fn within_bounds<'a>(args: &Args<'a>) -> Answer<'a> {
    for (place, name) in ["app_id", "table_name", "record_id"].into_iter().enumerate() {
        match args.text(place) {
            Some([]) => return Err(Error::Empty(name)),
            Some(text) if text.len() > MOST_KEY_BYTES => return Err(Error::TooLong(name)),
            _ => {}
        }
    }
    check_space(args.text(3))?;
    check_client(args.text(4))?;
    check_values([("data", args.jsonb(5)), ("field_timestamps", args.jsonb(6)), ("actor", args.jsonb(7))])?;
    check_origin(args.text(8))?;
    Ok(Some(true.into()))
}

/// Returns a text that is a key of an index. Errors: 22023 if the text is NULL, empty or too long. `name` is the name of the argument.
pub fn key<'a>(text: Option<&'a [u8]>, name: &'static str) -> Result<&'a [u8], Error> {
    let text = text.filter(|text| !text.is_empty()).ok_or(Error::Empty(name))?;
    if text.len() > MOST_KEY_BYTES { Err(Error::TooLong(name)) } else { Ok(text) }
}

/// Returns an error if no scope could name the space.
pub fn check_space(space: Option<&[u8]>) -> Result<(), Error> {
    match space.and_then(fault_of_space) {
        Some(fault) => Err(Error::OutOfBounds { what: "space_id", fault }),
        None => Ok(()),
    }
}

/// Returns an error if a client id is too long.
pub fn check_client(client: Option<&[u8]>) -> Result<(), Error> {
    if client.is_some_and(|client| client.len() > MOST_KEY_BYTES) { Err(Error::TooLong("client_id")) } else { Ok(()) }
}

/// Returns an error if an origin is too long.
pub fn check_origin(origin: Option<&[u8]>) -> Result<(), Error> {
    if origin.is_some_and(|origin| origin.len() > MOST_KEY_BYTES) { Err(Error::TooLong("origin")) } else { Ok(()) }
}

/// Returns an error if the JSON values of a change are out of bounds, alone or together. Each value has the name of its column.
pub fn check_values(parts: [(&'static str, Option<Jsonb<'_>>); 3]) -> Result<(), Error> {
    let Some(of_all) = fault_of_values(parts.map(|(_, value)| value)) else { return Ok(()) };
    let of_one = parts.into_iter().find_map(|(what, value)| Some((what, fault_of_values([value])?)));
    let (what, fault) = of_one.unwrap_or(("change", of_all));
    Err(Error::OutOfBounds { what, fault })
}
