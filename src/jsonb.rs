//! Glue: jsonb as PostgreSQL's own functions read and build it. Nothing is converted on the way:
//! a number is the numeric that it is stored as.

use crate::number::Number;
use pgrx::pg_sys;
use std::marker::PhantomData;
use std::ptr;

/// A JSON value inside a jsonb that lives for `'a`.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A string, in the database's encoding.
    String(&'a [u8]),
    /// A number.
    Number(Raw<'a>),
    /// An array.
    Array(Array<'a>),
    /// An object.
    Object(Object<'a>),
}

/// A value as PostgreSQL describes it.
#[derive(Clone, Copy)]
pub struct Raw<'a> {
    value: pg_sys::JsonbValue,
    of: PhantomData<&'a ()>,
}

/// A JSON object.
#[derive(Clone, Copy)]
pub struct Object<'a>(Raw<'a>);

/// A JSON array.
#[derive(Clone, Copy)]
pub struct Array<'a>(Raw<'a>);

impl<'a> Raw<'a> {
    /// What it is.
    pub fn get(self) -> Value<'a> {
        use pg_sys::jbvType as kind;
        // SAFETY: the type says which member of the union is set. A value inside a jsonb is a scalar or
        // binary, and a binary one begins with its header.
        unsafe {
            match self.value.type_ {
                kind::jbvNull => Value::Null,
                kind::jbvBool => Value::Bool(self.value.val.boolean),
                kind::jbvNumeric => Value::Number(self),
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

    /// `null`
    pub fn null() -> Raw<'a> {
        // All zeroes is one.
        Raw { value: empty(), of: PhantomData }
    }

    /// The text of a string, in the database's encoding; `None` where it is none.
    pub fn text(self) -> Option<&'a [u8]> {
        match self.get() {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A jsonb of its own, in the current memory context.
    pub fn datum(mut self) -> pg_sys::Datum {
        // SAFETY: copies the value.
        unsafe { pg_sys::Datum::from(pg_sys::JsonbValueToJsonb(&mut self.value)) }
    }

    /// A number as it is stored; `None` where it is none.
    pub fn digits(self) -> Option<Number<'a>> {
        match self.bytes() {
            (pg_sys::jbvType::jbvNumeric, bytes) => Number::read(bytes.get(pg_sys::VARHDRSZ..)?),
            _ => None,
        }
    }

    /// The entries of an array or object: an object's keys, and the values, as many as there are keys.
    pub fn keys_and_values(self) -> (Option<Entries<'a>>, Entries<'a>) {
        let keys = self.entries();
        // SAFETY: only called for arrays and objects, whose container begins with its header.
        if unsafe { (*self.container()).header } & pg_sys::JB_FOBJECT == 0 {
            return (None, keys);
        }
        let mut values = keys.clone();
        for _ in 0..keys.left / 2 {
            values.step();
        }
        (Some(keys), values)
    }

    /// Those of the values in an array or object that are arrays, objects or numbers; `None` where it is neither.
    pub fn containers_and_numbers(self) -> Option<ContainersAndNumbers<'a>> {
        match self.value.type_ {
            // Keys are strings.
            pg_sys::jbvType::jbvBinary => Some(ContainersAndNumbers(self.entries())),
            _ => None,
        }
    }

    /// What kind of value it is, and its bytes, for [`Raw::from_bytes`].
    pub fn bytes(&self) -> (pg_sys::jbvType::Type, &'a [u8]) {
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

    /// The value that [`Raw::bytes`] told the bytes of.
    ///
    /// # Safety
    /// It did, and they are aligned to 4 bytes.
    pub unsafe fn from_bytes(of: pg_sys::jbvType::Type, bytes: &'a [u8]) -> Raw<'a> {
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
        Raw { value, of: PhantomData }
    }

    fn container(&self) -> *mut pg_sys::JsonbContainer {
        // SAFETY: only called for arrays and objects.
        unsafe { self.value.val.binary.data }
    }

    /// What an array or an object is made of: its elements; or all its keys, and then all its values.
    fn entries(&self) -> Entries<'a> {
        // SAFETY: a container inside a jsonb: its header, and then as many entries as it has elements, or twice as many
        // as it has pairs, and then what they tell the place of.
        unsafe {
            let header = (*self.container()).header;
            let pairs = header & pg_sys::JB_FOBJECT != 0;
            let count = (header & pg_sys::JB_CMASK) as usize * if pairs { 2 } else { 1 };
            let entry = ptr::addr_of!((*self.container()).children).cast::<pg_sys::JEntry>();
            Entries { entry, left: count, start: entry.add(count).cast(), offset: 0, of: PhantomData }
        }
    }
}

/// The entries of a container, in their order. Read here and not by PostgreSQL's functions, each call of which is guarded
/// against its errors: that takes longer than the reading, of which there is much. (The format is that of the tables on
/// disk, and the same in all versions: jsonb.h.)
#[derive(Clone)]
pub struct Entries<'a> {
    entry: *const pg_sys::JEntry,
    left: usize,
    /// Of what the entries tell the place of.
    start: *const u8,
    /// Of the next entry's.
    offset: u32,
    of: PhantomData<&'a ()>,
}

impl<'a> Entries<'a> {
    /// The next entry, and where what it tells the place of begins and ends.
    fn step(&mut self) -> Option<(pg_sys::JEntry, u32, u32)> {
        self.left = self.left.checked_sub(1)?;
        // SAFETY: there was one left.
        let entry = unsafe {
            let entry = *self.entry;
            self.entry = self.entry.add(1);
            entry
        };
        // Some tell the end, most the length.
        let (told, begin) = (entry & pg_sys::JENTRY_OFFLENMASK, self.offset);
        self.offset = if entry & pg_sys::JENTRY_HAS_OFF != 0 { told } else { begin + told };
        Some((entry, begin, self.offset))
    }

    /// What is between two places, of the kind that the entry tells.
    fn value(&self, (entry, begin, end): (pg_sys::JEntry, u32, u32)) -> Raw<'a> {
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
        Raw { value, of: PhantomData }
    }
}

/// See [`Raw::containers_and_numbers`].
pub struct ContainersAndNumbers<'a>(Entries<'a>);

impl<'a> Iterator for ContainersAndNumbers<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Raw<'a>> {
        loop {
            let place = self.0.step()?;
            if matches!(place.0 & pg_sys::JENTRY_TYPEMASK, pg_sys::JENTRY_ISNUMERIC | pg_sys::JENTRY_ISCONTAINER) {
                return Some(self.0.value(place));
            }
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Raw<'a>> {
        let place = self.step()?;
        Some(self.value(place))
    }
}

/// The value of a `jsonb` datum.
///
/// # Safety
/// `datum` is a jsonb that stays where it is for `'a`.
pub unsafe fn root<'a>(datum: pg_sys::Datum) -> Raw<'a> {
    // SAFETY: detoasting leaves a plain varlena, in place or in the current memory context; its container follows
    // the length word.
    unsafe {
        let mut varlena = datum.cast_mut_ptr();
        if !pgrx::varatt_is_4b_u(varlena) {
            varlena = pg_sys::pg_detoast_datum(varlena);
        }
        let jsonb = varlena.cast::<pg_sys::Jsonb>();
        let container = ptr::addr_of_mut!((*jsonb).root);
        let mut value = empty();
        value.type_ = pg_sys::jbvType::jbvBinary;
        value.val.binary.data = container;
        value.val.binary.len = pgrx::varsize_any_exhdr(jsonb.cast()) as i32;
        let raw = Raw { value, of: PhantomData };
        if (*container).header & pg_sys::JB_FSCALAR == 0 {
            return raw;
        }
        // A scalar is stored as an array of one element.
        raw.entries().next().unwrap_or(raw)
    }
}

fn empty() -> pg_sys::JsonbValue {
    // SAFETY: all zeroes is a null.
    unsafe { std::mem::zeroed() }
}

impl<'a> Object<'a> {
    /// The value of a key, which is in the database's encoding.
    pub fn get(&self, key: &[u8]) -> Option<Raw<'a>> {
        // More are searched by halves, which PostgreSQL can do.
        const FEW: usize = 32;
        let mut entries = self.0.entries();
        let pairs = entries.left / 2;
        if pairs > FEW {
            let mut value = empty();
            // SAFETY: an object; the key has the length that is passed.
            let found = unsafe {
                let (text, length) = (key.as_ptr().cast(), key.len() as i32);
                pg_sys::getKeyJsonValueFromContainer(self.0.container(), text, length, &mut value)
            };
            return (!found.is_null()).then_some(Raw { value, of: PhantomData });
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

    /// Its pairs, in the order of jsonb.
    pub fn pairs(self) -> impl Iterator<Item = (Raw<'a>, Raw<'a>)> {
        let (keys, values) = self.0.keys_and_values();
        // The values end first: behind the keys there are the values.
        values.zip(keys.into_iter().flatten()).map(|(value, key)| (key, value))
    }

    /// The value that it is.
    pub fn raw(self) -> Raw<'a> {
        self.0
    }
}

impl<'a> Array<'a> {
    /// Its elements.
    pub fn elements(self) -> impl Iterator<Item = Raw<'a>> {
        self.0.entries()
    }
}

/// Builds a jsonb object in the current memory context.
pub struct Builder(*mut pg_sys::JsonbParseState);

impl Builder {
    /// An object without pairs.
    pub fn new() -> Builder {
        let mut builder = Builder(ptr::null_mut());
        builder.push(pg_sys::JsonbIteratorToken::WJB_BEGIN_OBJECT, None);
        builder
    }

    /// Adds a pair; `key` is a string.
    pub fn add(&mut self, key: Raw<'_>, value: Raw<'_>) {
        self.push(pg_sys::JsonbIteratorToken::WJB_KEY, Some(key));
        self.push(pg_sys::JsonbIteratorToken::WJB_VALUE, Some(value));
    }

    /// The object.
    pub fn datum(mut self) -> pg_sys::Datum {
        let object = self.push(pg_sys::JsonbIteratorToken::WJB_END_OBJECT, None);
        // SAFETY: the end of the outermost object returns it.
        unsafe { pg_sys::Datum::from(pg_sys::JsonbValueToJsonb(object)) }
    }

    fn push(&mut self, token: pg_sys::JsonbIteratorToken::Type, value: Option<Raw<'_>>) -> *mut pg_sys::JsonbValue {
        // SAFETY: the tokens come in the order of the grammar. What a value points to is copied at the end,
        // when it still lives.
        unsafe {
            match value {
                Some(mut raw) => pg_sys::pushJsonbValue(&mut self.0, token, &mut raw.value),
                None => pg_sys::pushJsonbValue(&mut self.0, token, ptr::null_mut()),
            }
        }
    }
}

/// A string, in the database's encoding.
pub fn string(bytes: &[u8]) -> Raw<'_> {
    let mut value = empty();
    value.type_ = pg_sys::jbvType::jbvString;
    value.val.string.val = bytes.as_ptr().cast_mut().cast();
    value.val.string.len = bytes.len() as i32;
    Raw { value, of: PhantomData }
}
