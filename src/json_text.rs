//! JSON text: what goes out to devices, and how long a value is as text.
//!
//! Text is compact: no blanks. Values are walked through without recursion, so that none is nested too deep for the stack.

use crate::jsonb::{Entries, Raw, Value, root};
use crate::memory::Context;
use crate::number::Number;
use allocator_api2::vec::Vec;
use pgrx::pg_sys;

/// JSON text that grows, in memory of the context that was the current one when it was made.
pub struct JsonText(Vec<u8, Context>);

impl JsonText {
    /// No text yet.
    pub fn new() -> JsonText {
        // Room for the length word of the datum.
        let mut text = Vec::with_capacity_in(1024, Context::current());
        text.extend_from_slice(&[0; pg_sys::VARHDRSZ]);
        JsonText(text)
    }

    /// How many bytes it has.
    pub fn length(&self) -> usize {
        self.0.len() - pg_sys::VARHDRSZ
    }

    /// Takes back what was added behind the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length + pg_sys::VARHDRSZ);
    }

    /// Adds what is JSON already.
    pub fn raw(&mut self, json: &str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    /// Adds a string, which is in the database's encoding.
    pub fn string(&mut self, bytes: &[u8]) {
        quote(bytes, |part| self.0.extend_from_slice(part));
    }

    /// Adds a value.
    pub fn value(&mut self, value: Raw<'_>) {
        walk(value, self);
    }

    /// The text as a `json` datum, which has the form of a `text`.
    pub fn datum(self) -> pg_sys::Datum {
        let (start, length, _, _) = self.0.into_raw_parts_with_alloc();
        // SAFETY: the buffer has `length` bytes, of which the first are the length word. It is the server's memory.
        unsafe {
            pgrx::set_varsize_4b(start.cast(), length as i32);
            pg_sys::Datum::from(start)
        }
    }
}

/// Hands over the parts of a JSON string: its quotes, and the characters escaped that have to be.
pub fn quote(bytes: &[u8], mut put: impl FnMut(&[u8])) {
    put(b"\"");
    let mut rest = bytes;
    // What needs no escape goes in one piece.
    while let Some(at) = rest.iter().position(|&byte| needs_escape(byte)) {
        put(&rest[..at]);
        match rest[at] {
            b'"' => put(b"\\\""),
            b'\\' => put(b"\\\\"),
            b'\n' => put(b"\\n"),
            b'\r' => put(b"\\r"),
            b'\t' => put(b"\\t"),
            byte => put(format!("\\u{byte:04x}").as_bytes()),
        }
        rest = &rest[at + 1..];
    }
    put(rest);
    put(b"\"");
}

/// Whether a byte of a string is not printed as it is.
const fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// What a JSON text is made of.
trait Parts {
    /// A bracket, brace, comma or colon.
    fn mark(&mut self, mark: u8);
    fn word(&mut self, word: &'static str);
    fn string(&mut self, bytes: &[u8]);
    fn number(&mut self, number: Number<'_>);
    /// How many arrays and objects are open.
    fn depth(&mut self, depth: usize);
}

impl Parts for JsonText {
    fn mark(&mut self, mark: u8) {
        self.0.push(mark);
    }

    fn word(&mut self, word: &'static str) {
        self.raw(word);
    }

    fn string(&mut self, bytes: &[u8]) {
        JsonText::string(self, bytes);
    }

    fn number(&mut self, number: Number<'_>) {
        number.write(|part| self.0.extend_from_slice(part));
    }

    fn depth(&mut self, _: usize) {}
}

/// An array or object that is being walked through.
struct Open<'a> {
    /// An object's.
    keys: Option<Entries<'a>>,
    values: Entries<'a>,
    first: bool,
}

impl<'a> Open<'a> {
    /// Of an array or object.
    fn new(container: Raw<'a>) -> Open<'a> {
        let (keys, values) = container.keys_and_values();
        Open { keys, values, first: true }
    }

    fn bracket(&self) -> u8 {
        if self.keys.is_some() { b'{' } else { b'[' }
    }
}

/// Hands the parts of a value's text over, in their order.
fn walk(value: Raw<'_>, parts: &mut impl Parts) {
    let Some(mut current) = part(value, parts) else { return };
    let mut outer = std::vec::Vec::new();
    parts.mark(current.bracket());
    parts.depth(1);
    loop {
        let Some(value) = current.values.next() else {
            // `]` and `}` follow two places behind `[` and `{`.
            parts.mark(current.bracket() + 2);
            match outer.pop() {
                Some(open) => current = open,
                None => return,
            }
            continue;
        };
        if !std::mem::replace(&mut current.first, false) {
            parts.mark(b',');
        }
        if let Some(Value::String(name)) = current.keys.as_mut().and_then(Iterator::next).map(Raw::get) {
            parts.string(name);
            parts.mark(b':');
        }
        if let Some(inner) = part(value, parts) {
            parts.mark(inner.bracket());
            outer.push(std::mem::replace(&mut current, inner));
            parts.depth(outer.len() + 1);
        }
    }
}

/// Hands a scalar over; or opens an array or object.
fn part<'a>(value: Raw<'a>, parts: &mut impl Parts) -> Option<Open<'a>> {
    match value.get() {
        Value::Null => parts.word("null"),
        Value::Bool(true) => parts.word("true"),
        Value::Bool(false) => parts.word("false"),
        Value::String(bytes) => parts.string(bytes),
        Value::Number(number) => match number.digits() {
            Some(number) => parts.number(number),
            None => parts.word("null"),
        },
        Value::Array(_) | Value::Object(_) => return Some(Open::new(value)),
    }
    None
}

/// How large a value is as text, with each number in full, as PostgreSQL prints it.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Size {
    /// Bytes of compact text.
    pub text: usize,
    /// Characters of the longest number.
    pub longest_number: usize,
    /// How many arrays and objects are within each other.
    pub depth: usize,
}

impl Size {
    /// How large a value is.
    pub fn of(value: Raw<'_>) -> Size {
        let mut size = Size::default();
        walk(value, &mut size);
        size
    }

    /// How much text the numbers of a value have, and how deep it is: what makes a value larger as text than it is stored. Strings, and
    /// what is said once for each entry, have no more than six bytes of text for each byte that is stored.
    pub fn of_numbers(value: Raw<'_>) -> Size {
        let mut size = Size::default();
        let add = |size: &mut Size, number: Raw<'_>| {
            if let Some(number) = number.digits() {
                Parts::number(size, number);
            }
        };
        let Some(mut current) = value.containers_and_numbers() else {
            add(&mut size, value);
            return size;
        };
        let mut outer = std::vec::Vec::new();
        size.depth = 1;
        loop {
            match current.next() {
                None => match outer.pop() {
                    Some(open) => current = open,
                    None => return size,
                },
                Some(value) => match value.containers_and_numbers() {
                    Some(inner) => {
                        outer.push(std::mem::replace(&mut current, inner));
                        size.depth = size.depth.max(outer.len() + 1);
                    }
                    None => add(&mut size, value),
                },
            }
        }
    }

    /// Both together, one beside the other.
    pub fn and(self, other: Size) -> Size {
        Size {
            text: self.text.saturating_add(other.text),
            longest_number: self.longest_number.max(other.longest_number),
            depth: self.depth.max(other.depth),
        }
    }
}

/// Whether there is certainly no number in a jsonb: it is an object or array of other scalars.
///
/// # Safety
/// It is a jsonb that is stored in place, and not compressed.
pub unsafe fn has_no_number(datum: pg_sys::Datum) -> bool {
    // SAFETY: behind the length there is a container: its header, and as many entries as it has elements, or twice as many as it has
    // pairs. Those of a short one are not aligned.
    unsafe {
        let container = pgrx::vardata_any(datum.cast_mut_ptr::<pg_sys::varlena>()).cast::<u32>();
        let header = container.read_unaligned();
        let count = (header & pg_sys::JB_CMASK) as usize * if header & pg_sys::JB_FOBJECT != 0 { 2 } else { 1 };
        (1..=count).all(|place| {
            let kind = container.add(place).read_unaligned() & pg_sys::JENTRY_TYPEMASK;
            kind != pg_sys::JENTRY_ISNUMERIC && kind != pg_sys::JENTRY_ISCONTAINER
        })
    }
}

/// Hands the value of a `jsonb` datum over. The second is the datum where it had to be fetched or decompressed, in the current memory
/// context.
///
/// # Safety
/// It is a jsonb.
pub unsafe fn with_value<T>(datum: pg_sys::Datum, take: impl FnOnce(Raw<'_>) -> T) -> (T, Option<pg_sys::Datum>) {
    /// A varlena of this length has a header of one byte, at most.
    const SHORT: usize = 127;
    // SAFETY: a jsonb is a varlena. A short one is copied behind a length word of four bytes, as detoasting does, for the
    // numbers in it have to be aligned to four; the copy lives until `take` has returned.
    unsafe {
        let varlena: *mut pg_sys::varlena = datum.cast_mut_ptr();
        if pgrx::varatt_is_1b(varlena) && !pgrx::varatt_is_1b_e(varlena) {
            let mut copy = [0u64; (SHORT + pg_sys::VARHDRSZ).div_ceil(8)];
            let (start, length) = (pgrx::vardata_any(varlena), pgrx::varsize_any_exhdr(varlena));
            let place = copy.as_mut_ptr().cast::<u8>();
            std::ptr::copy_nonoverlapping(start.cast::<u8>(), place.add(pg_sys::VARHDRSZ), length.min(SHORT));
            pgrx::set_varsize_4b(place.cast(), (length + pg_sys::VARHDRSZ) as i32);
            return (take(root(pg_sys::Datum::from(place))), None);
        }
        if pgrx::varatt_is_4b_u(varlena) {
            return (take(root(datum)), None);
        }
        let fetched = pg_sys::Datum::from(pg_sys::pg_detoast_datum(varlena));
        (take(root(fetched)), Some(fetched))
    }
}

impl Parts for Size {
    fn mark(&mut self, _: u8) {
        self.text += 1;
    }

    fn word(&mut self, word: &'static str) {
        self.text += word.len();
    }

    fn string(&mut self, bytes: &[u8]) {
        let (mut short, mut long) = (0, 0);
        for &byte in bytes {
            short += usize::from(matches!(byte, b'"' | b'\\' | b'\n' | b'\r' | b'\t'));
            long += usize::from(byte < 0x20 && !matches!(byte, b'\n' | b'\r' | b'\t'));
        }
        self.text += 2 + bytes.len() + short + 5 * long;
    }

    fn number(&mut self, number: Number<'_>) {
        let length = number.plain_length();
        self.text = self.text.saturating_add(length);
        self.longest_number = self.longest_number.max(length);
    }

    fn depth(&mut self, depth: usize) {
        self.depth = self.depth.max(depth);
    }
}

#[cfg(any(test, feature = "pg_test"))]
pub(crate) mod server_tests {
    use super::*;

    /// What is printed has the length that was counted, and is the value that was printed.
    pub fn text_is_compact_and_has_the_length_that_is_counted() {
        let deep = format!("{}1{}", "[".repeat(3000), "]".repeat(3000));
        for (text, compact) in [
            (
                r#"{"b": [1, 2.50, {"c": null}], "a": "x\ny\"\\\u0001\tz", "": {}, "t": [true, false, []]}"#,
                r#"{"":{},"a":"x\ny\"\\\u0001\tz","b":[1,2.50,{"c":null}],"t":[true,false,[]]}"#,
            ),
            ("[]", "[]"),
            ("{}", "{}"),
            ("null", "null"),
            (r#""é\u0007""#, r#""é\u0007""#),
            ("[[[]], {}]", "[[[]],{}]"),
            (deep.as_str(), deep.as_str()),
        ] {
            let c_text = std::ffi::CString::new(text).unwrap();
            // SAFETY: jsonb_in takes a C string.
            let datum = unsafe {
                pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(c_text.as_ptr().into())]).unwrap()
            };
            let mut json = JsonText::new();
            // SAFETY: a jsonb, which is not freed before the test ends.
            json.value(unsafe { root(datum) });
            assert_eq!(std::str::from_utf8(&json.0[pg_sys::VARHDRSZ..]).unwrap(), compact);
            // SAFETY: likewise.
            assert_eq!(unsafe { with_value(datum, Size::of) }.0.text, compact.len(), "{compact}");
        }
    }
}
