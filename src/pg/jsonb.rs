//! jsonb, read in place and built by PostgreSQL's own functions.
//!
//! Nothing is converted: a number stays a `numeric`, and a string stays in the encoding of the database.

use super::datum::{Datum, is_in_place};
use super::memory::Memory;
use super::versions::JsonbState;
use pgrx::pg_sys;
use std::marker::PhantomData;
use std::ptr;

/// A `jsonb` of a column or an argument. It may be compressed or stored out of line.
#[derive(Clone, Copy)]
pub struct Jsonb<'a> {
    datum: Datum<'a>,
    /// The memory into which a detoasted copy goes.
    memory: Memory<'a>,
}

/// A value inside a jsonb that exists for `'a`.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    value: pg_sys::JsonbValue,
    lives: PhantomData<&'a ()>,
}

/// The content of a [`Node`].
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// The value `null`.
    Null,
    /// The value `true` or `false`.
    Bool(bool),
    /// A string, in the encoding of the database.
    String(&'a [u8]),
    /// A `numeric`: the bytes after its length word (`NumericChoice` in `utils/adt/numeric.c`).
    Number(&'a [u8]),
    /// An array.
    Array(Array<'a>),
    /// An object.
    Object(Object<'a>),
}

/// A JSON object.
#[derive(Clone, Copy)]
pub struct Object<'a>(Node<'a>);

/// A JSON array.
#[derive(Clone, Copy)]
pub struct Array<'a>(Node<'a>);

impl<'a> Jsonb<'a> {
    /// Wraps a datum that is a jsonb.
    ///
    /// # Safety
    /// The datum is a `jsonb`.
    pub(super) unsafe fn from_datum(datum: Datum<'a>, memory: Memory<'a>) -> Jsonb<'a> {
        Jsonb { datum, memory }
    }

    /// The memory into which a detoasted copy of this jsonb goes.
    #[cfg(any(test, feature = "pg_test", feature = "pg_bench"))]
    pub fn memory(self) -> Memory<'a> {
        self.memory
    }

    /// Returns the jsonb as a parameter or a result.
    pub fn datum(self) -> Datum<'a> {
        self.datum
    }

    fn varlena(self) -> *mut pg_sys::varlena {
        self.datum.into_raw().cast_mut_ptr()
    }

    /// Whether the jsonb is compressed or stored out of line.
    #[inline]
    pub fn is_toasted(self) -> bool {
        // SAFETY: a jsonb is a varlena.
        !unsafe { is_in_place(self.varlena()) }
    }

    /// Returns the value that the jsonb holds.
    #[inline]
    pub fn root(self) -> Node<'a> {
        let mut varlena = self.varlena();
        // SAFETY: a jsonb is a varlena that exists for 'a. Detoasting makes a plain one, in `memory`, which exists for 'a too.
        unsafe {
            if !pgrx::varatt_is_4b_u(varlena) {
                varlena = self.memory.run(|| pg_sys::pg_detoast_datum(varlena));
            }
            root_of(varlena)
        }
    }

    /// Returns the object that the jsonb holds; `None` if it does not hold an object.
    pub fn object(self) -> Option<Object<'a>> {
        self.root().object()
    }

    /// Calls `take` with the value that the jsonb holds. If the jsonb was toasted, also returns the detoasted jsonb.
    ///
    /// A short jsonb is read from a copy on the stack, which costs less than the copy that [`Jsonb::root`] allocates.
    pub fn with_root<T>(self, take: impl FnOnce(Node<'_>) -> T) -> (T, Option<Jsonb<'a>>) {
        /// A varlena with a length word of one byte has at most this length.
        const MOST_SHORT: usize = 127;
        let varlena = self.varlena();
        // SAFETY: a jsonb is a varlena. A short one is copied behind a length word of four bytes, as detoasting does, because the
        // numbers in it have to be aligned to four bytes. The copy lives until `take` has returned.
        unsafe {
            if pgrx::varatt_is_1b(varlena) && !pgrx::varatt_is_1b_e(varlena) {
                let mut copy = [0u64; (MOST_SHORT + pg_sys::VARHDRSZ).div_ceil(8)];
                let (start, length) = (pgrx::vardata_any(varlena), pgrx::varsize_any_exhdr(varlena));
                let place = copy.as_mut_ptr().cast::<u8>();
                ptr::copy_nonoverlapping(start.cast::<u8>(), place.add(pg_sys::VARHDRSZ), length.min(MOST_SHORT));
                pgrx::set_varsize_4b(place.cast(), (length + pg_sys::VARHDRSZ) as i32);
                return (take(root_of(place.cast())), None);
            }
            if pgrx::varatt_is_4b_u(varlena) {
                return (take(root_of(varlena)), None);
            }
            let plain = self.memory.run(|| pg_sys::pg_detoast_datum(varlena));
            let detoasted = Jsonb { datum: Datum::from_raw(pg_sys::Datum::from(plain)), memory: self.memory };
            (take(root_of(plain)), Some(detoasted))
        }
    }

    /// Whether the jsonb certainly has no number: it is not toasted, and it is an array or object of scalars that are
    /// not numbers. False means that it may have a number.
    #[inline]
    pub fn has_no_number(self) -> bool {
        if self.is_toasted() {
            return false;
        }
        // SAFETY: after the length word of a jsonb in place there is a container: its header, and then its entries, one
        // for each element of an array or two for each pair of an object. In a short jsonb the entries are not aligned.
        unsafe {
            let container = pgrx::vardata_any(self.varlena()).cast::<u32>();
            let header = container.read_unaligned();
            let count = (header & pg_sys::JB_CMASK) as usize * if header & pg_sys::JB_FOBJECT != 0 { 2 } else { 1 };
            (1..=count).all(|place| {
                let kind = container.add(place).read_unaligned() & pg_sys::JENTRY_TYPEMASK;
                kind != pg_sys::JENTRY_ISNUMERIC && kind != pg_sys::JENTRY_ISCONTAINER
            })
        }
    }

    /// Whether the jsonb is `{}`.
    pub fn is_empty_object(self) -> bool {
        self.with_root(|root| root.object().is_some_and(|object| object.0.entries().left == 0)).0
    }

    /// Returns a detoasted copy in `memory`. Dropping the copy frees it.
    pub fn to_owned_in<'m>(self, memory: Memory<'m>) -> JsonbBuf<'m> {
        // SAFETY: the root of a jsonb follows the length word of its plain form.
        let plain = unsafe {
            let varlena = match is_plain(self.varlena()) {
                true => self.varlena(),
                false => self.memory.run(|| pg_sys::pg_detoast_datum(self.varlena())),
            };
            std::slice::from_raw_parts(varlena.cast::<u8>(), pgrx::varsize_any(varlena))
        };
        let mut bytes = allocator_api2::vec::Vec::with_capacity_in(plain.len(), memory);
        bytes.extend_from_slice(plain);
        JsonbBuf(bytes)
    }
}

/// Whether a varlena has a length word of four bytes and is not toasted.
///
/// # Safety
/// `varlena` points to a varlena.
unsafe fn is_plain(varlena: *mut pg_sys::varlena) -> bool {
    // SAFETY: every varlena begins with a byte that says which form it has.
    unsafe { pgrx::varatt_is_4b_u(varlena) }
}

/// A `jsonb` that is not toasted, in a memory context. Dropping it frees its memory.
pub struct JsonbBuf<'m>(allocator_api2::vec::Vec<u8, Memory<'m>>);

impl JsonbBuf<'_> {
    /// The number of bytes that the jsonb takes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Returns the jsonb as a parameter.
    pub fn datum(&self) -> Datum<'_> {
        // SAFETY: the bytes are a whole jsonb, at the start of a block of the server, which is aligned for every type.
        unsafe { Datum::from_raw(pg_sys::Datum::from(self.0.as_ptr())) }
    }
}

impl<'a> Node<'a> {
    /// Returns the kind of the value, and its content.
    #[inline]
    pub fn get(self) -> Value<'a> {
        use pg_sys::jbvType as kind;
        // SAFETY: the type says which member of the union is set. A value inside a jsonb is a scalar or binary; a binary one
        // begins with its header, a numeric with its length word of four bytes.
        unsafe {
            match self.value.type_ {
                kind::jbvNull => Value::Null,
                kind::jbvBool => Value::Bool(self.value.val.boolean),
                kind::jbvNumeric => {
                    let numeric = self.value.val.numeric.cast::<pg_sys::varlena>();
                    let length = pgrx::varsize_any_exhdr(numeric);
                    Value::Number(std::slice::from_raw_parts(pgrx::vardata_any(numeric).cast(), length))
                }
                kind::jbvString => {
                    let string = self.value.val.string;
                    Value::String(std::slice::from_raw_parts(string.val.cast(), string.len as usize))
                }
                kind::jbvBinary => match (*self.value.val.binary.data).header & pg_sys::JB_FOBJECT {
                    0 => Value::Array(Array(self)),
                    _ => Value::Object(Object(self)),
                },
                other => panic!("a jsonb has no value of type {other}"),
            }
        }
    }

    /// Makes the value `null`.
    pub fn null() -> Node<'a> {
        // All zeroes is a null.
        Node { value: empty(), lives: PhantomData }
    }

    /// Returns the text of a string, in the encoding of the database; `None` if the value is not a string.
    #[inline]
    pub fn text(self) -> Option<&'a [u8]> {
        match self.get() {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value as an object; `None` if it is not an object.
    pub fn object(self) -> Option<Object<'a>> {
        match self.get() {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Returns a copy of the value as a jsonb of its own.
    pub fn to_jsonb<'m>(mut self, memory: Memory<'m>) -> Jsonb<'m> {
        // SAFETY: JsonbValueToJsonb copies the value into the current memory context.
        memory.run(|| unsafe { jsonb_of(&mut self.value, memory) })
    }

    /// Returns the entries of an array or object: the keys if it is an object, and the values. Returns `None` for a
    /// scalar. The iterator of the keys goes on into the values, so the caller must stop after the last value.
    pub fn keys_and_values(self) -> Option<(Option<Entries<'a>>, Entries<'a>)> {
        if self.value.type_ != pg_sys::jbvType::jbvBinary {
            return None;
        }
        let keys = self.entries();
        // SAFETY: a container begins with its header.
        if unsafe { (*self.container()).header } & pg_sys::JB_FOBJECT == 0 {
            return Some((None, keys));
        }
        let mut values = keys.clone();
        for _ in 0..keys.left / 2 {
            values.step();
        }
        Some((Some(keys), values))
    }

    /// Returns the values in an array or object that are themselves arrays, objects or numbers; `None` if this value is
    /// neither an array nor an object.
    pub fn containers_and_numbers(self) -> Option<ContainersAndNumbers<'a>> {
        match self.value.type_ {
            // Keys are strings.
            pg_sys::jbvType::jbvBinary => Some(ContainersAndNumbers(self.entries())),
            _ => None,
        }
    }

    /// The number of bytes that the value takes inside a jsonb.
    pub fn stored_size(&self) -> usize {
        self.bytes().1.len()
    }

    /// Returns the kind of the value, and its bytes. [`Node::from_bytes`] takes both.
    fn bytes(&self) -> (pg_sys::jbvType::Type, &'a [u8]) {
        use pg_sys::jbvType as kind;
        // SAFETY: the type says which member of the union is set; a numeric begins with its length.
        let bytes = unsafe {
            match self.value.type_ {
                kind::jbvString => {
                    let string = self.value.val.string;
                    std::slice::from_raw_parts(string.val.cast::<u8>(), string.len as usize)
                }
                kind::jbvNumeric => {
                    let numeric = self.value.val.numeric.cast::<pg_sys::varlena>();
                    std::slice::from_raw_parts(numeric.cast::<u8>(), pgrx::varsize_any(numeric))
                }
                kind::jbvBinary => {
                    let binary = self.value.val.binary;
                    std::slice::from_raw_parts(binary.data.cast::<u8>(), binary.len as usize)
                }
                kind::jbvBool if self.value.val.boolean => &[1],
                kind::jbvBool => &[0],
                _ => &[],
            }
        };
        (self.value.type_, bytes)
    }

    /// Returns the value whose bytes [`Node::bytes`] returned.
    ///
    /// # Safety
    /// `bytes` is a copy of those bytes, aligned to 4 bytes.
    unsafe fn from_bytes(of: pg_sys::jbvType::Type, bytes: &'a [u8]) -> Node<'a> {
        use pg_sys::jbvType as kind;
        let mut value = string(bytes).value;
        value.type_ = of;
        let start = bytes.as_ptr().cast_mut();
        match of {
            kind::jbvNumeric => value.val.numeric = start.cast(),
            kind::jbvBool => value.val.boolean = bytes == [1],
            kind::jbvBinary => {
                value.val.binary.len = bytes.len() as i32;
                value.val.binary.data = start.cast();
            }
            _ => {}
        }
        Node { value, lives: PhantomData }
    }

    fn container(&self) -> *mut pg_sys::JsonbContainer {
        // SAFETY: the private callers have seen that it is an array or object.
        unsafe { self.value.val.binary.data }
    }

    /// The entries of a container: the elements of an array, or all keys of an object and then all its values.
    fn entries(&self) -> Entries<'a> {
        // SAFETY: a container in a jsonb is a header, then its entries (one for each element of an array, or two for
        // each pair of an object), and then the contents to which the entries point.
        unsafe {
            let header = (*self.container()).header;
            let pairs = header & pg_sys::JB_FOBJECT != 0;
            let count = (header & pg_sys::JB_CMASK) as usize * if pairs { 2 } else { 1 };
            let entry = ptr::addr_of!((*self.container()).children).cast::<pg_sys::JEntry>();
            Entries { entry, left: count, start: entry.add(count).cast(), offset: 0, lives: PhantomData }
        }
    }
}

/// A copy of a [`Node`] and of a text that belongs to it, in one block of a memory context.
pub struct NodeBuf<'m> {
    kind: pg_sys::jbvType::Type,
    /// The value, followed by the text.
    bytes: allocator_api2::vec::Vec<u8, Memory<'m>>,
    /// The number of bytes of the value. The text begins after them.
    length: usize,
}

/// A [`NodeBuf`] in the form that one process of an aggregation hands to another.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct StoredNode<'a> {
    kind: u32,
    #[serde(borrow)]
    value: &'a serde_bytes::Bytes,
    #[serde(borrow)]
    text: &'a serde_bytes::Bytes,
}

impl<'m> NodeBuf<'m> {
    /// Copies a value and a text.
    pub fn new(node: Node<'_>, text: &[u8], memory: Memory<'m>) -> NodeBuf<'m> {
        let (kind, value) = node.bytes();
        NodeBuf::of(kind, value, text, memory)
    }

    fn of(kind: pg_sys::jbvType::Type, value: &[u8], text: &[u8], memory: Memory<'m>) -> NodeBuf<'m> {
        let mut bytes = allocator_api2::vec::Vec::with_capacity_in(value.len() + text.len(), memory);
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(text);
        NodeBuf { kind, bytes, length: value.len() }
    }

    /// Returns a copy in `memory`.
    pub fn copy<'o>(&self, memory: Memory<'o>) -> NodeBuf<'o> {
        let (value, text) = self.bytes.split_at(self.length);
        NodeBuf::of(self.kind, value, text, memory)
    }

    /// The value.
    pub fn node(&self) -> Node<'_> {
        // SAFETY: the bytes are a copy of those of a value of this kind, at the start of a block of the server, which is
        // aligned for every type.
        unsafe { Node::from_bytes(self.kind, &self.bytes[..self.length]) }
    }

    /// The text that belongs to the value.
    pub fn text(&self) -> &[u8] {
        &self.bytes[self.length..]
    }

    /// Returns the value and the text in a form that serde can encode. [`NodeBuf::from_stored`] restores them.
    pub fn stored(&self) -> StoredNode<'_> {
        let (value, text) = self.bytes.split_at(self.length);
        StoredNode { kind: self.kind, value: serde_bytes::Bytes::new(value), text: serde_bytes::Bytes::new(text) }
    }

    /// Returns a copy of the value from which [`NodeBuf::stored`] made `stored`. The [`super::fmgr::SerializedState`]
    /// vouches for the bytes: they come from another process of the same aggregation.
    pub fn from_stored(
        stored: StoredNode<'_>,
        _: &super::fmgr::SerializedState<'_>,
        memory: Memory<'m>,
    ) -> NodeBuf<'m> {
        NodeBuf::of(stored.kind as pg_sys::jbvType::Type, stored.value, stored.text, memory)
    }
}

/// An iterator over the entries of an array or object, in the order in which they are stored.
///
/// The entries are read here and not by PostgreSQL's functions, because the guard around a call costs more than reading
/// an entry. The format is the format on disk, which is the same in all versions (`utils/jsonb.h`).
#[derive(Clone)]
pub struct Entries<'a> {
    entry: *const pg_sys::JEntry,
    left: usize,
    /// The start of the values. The offsets in the entries count from here.
    start: *const u8,
    /// The offset at which the value of the next entry starts.
    offset: u32,
    lives: PhantomData<&'a ()>,
}

impl<'a> Entries<'a> {
    /// Returns the next entry, and the offsets at which its value begins and ends; `None` after the last entry.
    fn step(&mut self) -> Option<(pg_sys::JEntry, u32, u32)> {
        self.left = self.left.checked_sub(1)?;
        // SAFETY: there was one left.
        let entry = unsafe {
            let entry = *self.entry;
            self.entry = self.entry.add(1);
            entry
        };
        // An entry has the end of its value, or, more often, the length.
        let (end_or_length, begin) = (entry & pg_sys::JENTRY_OFFLENMASK, self.offset);
        self.offset = if entry & pg_sys::JENTRY_HAS_OFF != 0 { end_or_length } else { begin + end_or_length };
        Some((entry, begin, self.offset))
    }

    /// Returns the value of an entry that lies between two offsets. The entry says of which kind the value is.
    fn value(&self, (entry, begin, end): (pg_sys::JEntry, u32, u32)) -> Node<'a> {
        use pg_sys::jbvType as kind;
        let mut value = empty();
        // Numbers and containers begin at the next multiple of four.
        let aligned = begin.next_multiple_of(4);
        // SAFETY: the places are within the container.
        unsafe {
            let place = |offset: u32| self.start.add(offset as usize).cast_mut();
            match entry & pg_sys::JENTRY_TYPEMASK {
                pg_sys::JENTRY_ISSTRING => {
                    value.type_ = kind::jbvString;
                    value.val.string.val = place(begin).cast();
                    value.val.string.len = (end - begin) as i32;
                }
                pg_sys::JENTRY_ISNUMERIC => {
                    value.type_ = kind::jbvNumeric;
                    value.val.numeric = place(aligned).cast();
                }
                pg_sys::JENTRY_ISBOOL_FALSE | pg_sys::JENTRY_ISBOOL_TRUE => {
                    value.type_ = kind::jbvBool;
                    value.val.boolean = entry & pg_sys::JENTRY_TYPEMASK == pg_sys::JENTRY_ISBOOL_TRUE;
                }
                pg_sys::JENTRY_ISNULL => value.type_ = kind::jbvNull,
                pg_sys::JENTRY_ISCONTAINER => {
                    value.type_ = kind::jbvBinary;
                    value.val.binary.data = place(aligned).cast();
                    value.val.binary.len = (end - aligned) as i32;
                }
                other => panic!("a jsonb has no entry of type {other}"),
            }
        }
        Node { value, lives: PhantomData }
    }
}

/// An iterator over the arrays, objects and numbers among the values of an array or object.
pub struct ContainersAndNumbers<'a>(Entries<'a>);

impl<'a> Iterator for ContainersAndNumbers<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        loop {
            let place = self.0.step()?;
            if matches!(place.0 & pg_sys::JENTRY_TYPEMASK, pg_sys::JENTRY_ISNUMERIC | pg_sys::JENTRY_ISCONTAINER) {
                return Some(self.0.value(place));
            }
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        let place = self.step()?;
        Some(self.value(place))
    }
}

/// Returns the value that a `jsonb` holds.
///
/// # Safety
/// `varlena` is a jsonb with a length word of four bytes, not toasted, that exists for `'a`.
unsafe fn root_of<'a>(varlena: *mut pg_sys::varlena) -> Node<'a> {
    // SAFETY: the container follows the length word.
    unsafe {
        let jsonb = varlena.cast::<pg_sys::Jsonb>();
        let container = ptr::addr_of_mut!((*jsonb).root);
        let mut value = empty();
        value.type_ = pg_sys::jbvType::jbvBinary;
        value.val.binary.data = container;
        value.val.binary.len = pgrx::varsize_any_exhdr(jsonb.cast()) as i32;
        let node = Node { value, lives: PhantomData };
        if (*container).header & pg_sys::JB_FSCALAR == 0 {
            return node;
        }
        // A scalar is stored as an array of one element.
        node.entries().next().unwrap_or(node)
    }
}

/// Makes a jsonb of `value`, in `memory`.
///
/// # Safety
/// `value` is a value of the server, and `memory` is the current memory context.
unsafe fn jsonb_of<'m>(value: *mut pg_sys::JsonbValue, memory: Memory<'m>) -> Jsonb<'m> {
    // SAFETY: JsonbValueToJsonb makes a plain jsonb in the current memory context.
    unsafe {
        let jsonb = pg_sys::Datum::from(pg_sys::JsonbValueToJsonb(value));
        Jsonb::from_datum(Datum::from_raw(jsonb), memory)
    }
}

fn empty() -> pg_sys::JsonbValue {
    // SAFETY: all zeroes is a null.
    unsafe { std::mem::zeroed() }
}

impl<'a> Object<'a> {
    /// Returns the value of a key; `None` if the object does not have it. Keys are in the encoding of the database.
    pub fn get(&self, key: &[u8]) -> Option<Node<'a>> {
        // PostgreSQL searches more keys than this by bisection.
        const FEW: usize = 32;
        let mut entries = self.0.entries();
        let pairs = entries.left / 2;
        if pairs > FEW {
            let mut value = empty();
            // SAFETY: the container is an object; the key has the length that is passed.
            let found = unsafe {
                let (text, length) = (key.as_ptr().cast(), key.len() as i32);
                pg_sys::getKeyJsonValueFromContainer(self.0.container(), text, length, &mut value)
            };
            return (!found.is_null()).then_some(Node { value, lives: PhantomData });
        }
        let mut found = None;
        for place in 0..pairs {
            let (_, begin, end) = entries.step()?;
            if (end - begin) as usize == key.len() {
                // SAFETY: a key is a string.
                let name = unsafe { std::slice::from_raw_parts(entries.start.add(begin as usize), key.len()) };
                if name == key {
                    found = Some(place);
                }
            }
        }
        entries.nth(found?)
    }

    /// Iterates over the pairs of the object, in the order in which jsonb stores them.
    pub fn pairs(self) -> impl Iterator<Item = (Node<'a>, Node<'a>)> {
        let keys_and_values = self.0.keys_and_values();
        // The values come first in the zip and end it, because the iterator of the keys goes on into the values.
        let pairs = keys_and_values.into_iter().flat_map(|(keys, values)| values.zip(keys.into_iter().flatten()));
        pairs.map(|(value, key)| (key, value))
    }

    /// Returns the object as a value.
    pub fn node(self) -> Node<'a> {
        self.0
    }
}

impl<'a> Array<'a> {
    /// Iterates over the elements of the array.
    pub fn elements(self) -> impl Iterator<Item = Node<'a>> {
        self.0.entries()
    }
}

/// Builds a jsonb object in a memory context, from keys and values that exist for `'v`.
pub struct Builder<'m, 'v> {
    state: JsonbState,
    memory: Memory<'m>,
    values: PhantomData<&'v ()>,
}

impl<'m, 'v> Builder<'m, 'v> {
    /// Begins an object without pairs, in `memory`.
    pub fn new(memory: Memory<'m>) -> Builder<'m, 'v> {
        let mut builder = Builder { state: JsonbState::new(), memory, values: PhantomData };
        builder.push(pg_sys::JsonbIteratorToken::WJB_BEGIN_OBJECT, None);
        builder
    }

    /// Adds a pair. `key` must be a string.
    pub fn add(&mut self, key: Node<'v>, value: Node<'v>) {
        assert!(key.value.type_ == pg_sys::jbvType::jbvString, "a key is a string");
        self.push(pg_sys::JsonbIteratorToken::WJB_KEY, Some(key));
        self.push(pg_sys::JsonbIteratorToken::WJB_VALUE, Some(value));
    }

    /// Ends the object, and returns it.
    pub fn finish(mut self) -> Jsonb<'m> {
        let object = self.push(pg_sys::JsonbIteratorToken::WJB_END_OBJECT, None);
        let memory = self.memory;
        // SAFETY: the end of the outermost object returns it.
        memory.run(|| unsafe { jsonb_of(object, memory) })
    }

    fn push(&mut self, token: pg_sys::JsonbIteratorToken::Type, value: Option<Node<'_>>) -> *mut pg_sys::JsonbValue {
        let (state, mut value) = (&mut self.state, value.map(|node| node.value));
        // SAFETY: the methods push the tokens in the order of the grammar. What the value points to is copied by `finish`, and exists
        // for 'v.
        self.memory.run(|| unsafe { state.push(token, value.as_mut()) })
    }
}

/// Makes an empty object (`{}`).
pub fn empty_object(memory: Memory<'_>) -> Jsonb<'_> {
    Builder::new(memory).finish()
}

/// Parses a text into a jsonb. If the text is not JSON, the server raises an error, so this is only for tests and
/// benchmarks.
#[cfg(any(test, feature = "pg_test", feature = "pg_bench"))]
pub fn parse(text: &str) -> Jsonb<'static> {
    let text = std::ffi::CString::new(text).expect("a text without a zero byte");
    // SAFETY: jsonb_in takes a C string, which it does not keep, and makes a jsonb in the current memory context, which a test
    // or benchmark does not leave before its end.
    unsafe {
        let jsonb = pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(text.as_ptr().into())]);
        Jsonb::from_datum(Datum::from_raw(jsonb.expect("jsonb_in returns a value")), Memory::current())
    }
}

/// A string, in the encoding of the database.
pub fn string(bytes: &[u8]) -> Node<'_> {
    let mut value = empty();
    value.type_ = pg_sys::jbvType::jbvString;
    value.val.string.val = bytes.as_ptr().cast_mut().cast();
    value.val.string.len = bytes.len() as i32;
    Node { value, lives: PhantomData }
}
