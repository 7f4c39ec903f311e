//! JSON text, as devices get it, and the size of a value as text.
//!
//! The text is compact: it has no blanks. Values are traversed without recursion, because a jsonb may be nested deeper than the stack
//! allows.

use super::number::Number;
use crate::pg::datum::Datum;
use crate::pg::jsonb::{Entries, Node, Value};
use crate::pg::memory::{Memory, Varlena};

/// JSON text that grows in a memory context.
pub struct JsonText<'m>(Varlena<'m>);

impl<'m> JsonText<'m> {
    /// An empty text.
    pub fn new(memory: Memory<'m>) -> JsonText<'m> {
        JsonText(Varlena::with_capacity(1024, memory))
    }

    /// The number of bytes in the text.
    pub fn length(&self) -> usize {
        self.0.len()
    }

    /// Removes everything after the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// Adds text that already is JSON.
    pub fn raw(&mut self, json: &str) {
        self.0.extend(json.as_bytes());
    }

    /// Adds a string, which is in the encoding of the database.
    pub fn string(&mut self, bytes: &[u8]) {
        quote(bytes, |part| self.0.extend(part));
    }

    /// Adds a value.
    pub fn value(&mut self, value: Node<'_>) {
        walk(value, self);
    }

    /// Returns the text as a `json` datum.
    pub fn finish(self) -> Datum<'m> {
        self.0.finish()
    }
}

/// Hands the text of a JSON string to `put`, in parts, with quotes around it and with escapes for the characters that
/// need one.
fn quote(bytes: &[u8], mut put: impl FnMut(&[u8])) {
    put(b"\"");
    let mut rest = bytes;
    // Everything between two escapes is one part.
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

/// Whether a byte of a string needs an escape.
const fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Receives the parts of a JSON text.
trait Parts {
    /// A bracket, brace, comma or colon.
    fn mark(&mut self, mark: u8);
    fn word(&mut self, word: &'static str);
    fn string(&mut self, bytes: &[u8]);
    fn number(&mut self, number: Number<'_>);
    /// Is called with the number of open arrays and objects, each time one is opened.
    fn depth(&mut self, depth: usize);
}

impl Parts for JsonText<'_> {
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
        number.write(|part| self.0.extend(part));
    }

    fn depth(&mut self, _: usize) {}
}

/// An array or object that [`walk`] is traversing.
struct Container<'a> {
    /// The keys of an object; `None` for an array.
    keys: Option<Entries<'a>>,
    values: Entries<'a>,
    first: bool,
}

impl Container<'_> {
    fn bracket(&self) -> u8 {
        if self.keys.is_some() { b'{' } else { b'[' }
    }
}

/// Hands the JSON text of a value to `parts`, part by part.
fn walk(value: Node<'_>, parts: &mut impl Parts) {
    let Some(mut current) = part(value, parts) else { return };
    let mut outer = std::vec::Vec::new();
    parts.mark(current.bracket());
    parts.depth(1);
    loop {
        let Some(value) = current.values.next() else {
            // In ASCII, `]` is two places after `[`, and `}` is two places after `{`.
            parts.mark(current.bracket() + 2);
            match outer.pop() {
                Some(container) => current = container,
                None => return,
            }
            continue;
        };
        if !std::mem::replace(&mut current.first, false) {
            parts.mark(b',');
        }
        if let Some(Value::String(name)) = current.keys.as_mut().and_then(Iterator::next).map(Node::get) {
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

/// Hands the text of a scalar to `parts`. Returns an array or object, which [`walk`] has to traverse; `None` for a scalar.
fn part<'a>(value: Node<'a>, parts: &mut impl Parts) -> Option<Container<'a>> {
    match value.get() {
        Value::Null => parts.word("null"),
        Value::Bool(true) => parts.word("true"),
        Value::Bool(false) => parts.word("false"),
        Value::String(bytes) => parts.string(bytes),
        Value::Number(bytes) => match Number::read(bytes) {
            Some(number) => parts.number(number),
            None => parts.word("null"),
        },
        Value::Array(_) | Value::Object(_) => {
            let (keys, values) = value.keys_and_values()?;
            return Some(Container { keys, values, first: true });
        }
    }
    None
}

/// The size of a value as text, with every number in full, as PostgreSQL prints it.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Size {
    /// The number of bytes of compact text.
    pub text: usize,
    /// The number of characters of the longest number.
    pub longest_number: usize,
    /// The number of arrays and objects that are nested in each other.
    pub depth: usize,
}

impl Size {
    /// The size of a value.
    pub fn of(value: Node<'_>) -> Size {
        let mut size = Size::default();
        walk(value, &mut size);
        size
    }

    /// The size of the numbers in a value, without the rest of its text; and the depth of the value.
    ///
    /// Only numbers can make the text of a value much larger than its stored form. Everything else has at most six bytes of text for each
    /// stored byte.
    pub fn of_numbers(value: Node<'_>) -> Size {
        let mut size = Size::default();
        let add = |size: &mut Size, number: Node<'_>| {
            if let Value::Number(bytes) = number.get() {
                Number::read(bytes).into_iter().for_each(|number| Parts::number(size, number));
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
                    Some(container) => current = container,
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

    /// The size of two values together: the sum of their text, the longer of their numbers, and the greater depth.
    pub fn and(self, other: Size) -> Size {
        Size {
            text: self.text.saturating_add(other.text),
            longest_number: self.longest_number.max(other.longest_number),
            depth: self.depth.max(other.depth),
        }
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
    use crate::pg::jsonb::parse;

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
            let value = parse(text);
            let mut json = JsonText::new(value.memory());
            json.value(value.root());
            assert_eq!(std::str::from_utf8(json.0.bytes()).unwrap(), compact);
            assert_eq!(value.with_root(Size::of).0.text, compact.len(), "{compact}");
        }
    }
}
