//! Numbers as PostgreSQL stores them, and their text.
//!
//! This module does not call `numeric_out`, whose text of `1e131071` takes 131 kB, and each call of which is guarded against errors.
//!
//! It reads the format on disk, which is the same in all versions (`NumericData` in `utils/adt/numeric.c`): a header with the sign, the
//! number of decimal digits after the point (`dscale`), and the weight of the first digit; then digits to the base 10,000, without zeros at
//! either end.

/// A number whose plain text would have more characters than this is printed with an exponent.
pub const MOST_PLAIN: usize = 1000;

/// A finite `numeric`. All numbers in jsonb are finite.
#[derive(Clone, Copy)]
pub struct Number<'a> {
    negative: bool,
    /// The first digit is multiplied by 10,000 to the power of `weight`.
    weight: i32,
    /// The number of decimal digits that are printed after the point.
    scale: usize,
    /// The digits to the base 10,000: two bytes each, in the byte order of the machine.
    digits: &'a [u8],
}

/// The number of decimal digits in one digit to the base 10,000.
const GROUP: usize = 4;

impl<'a> Number<'a> {
    /// Reads a `numeric`, of which `bytes` are those after the length word. Returns `None` for NaN and infinity.
    pub fn read(bytes: &'a [u8]) -> Option<Number<'a>> {
        const SHORT: u16 = 0x8000;
        const SPECIAL: u16 = 0xc000;
        let (header, rest) = bytes.split_first_chunk()?;
        let header = u16::from_ne_bytes(*header);
        if header & SPECIAL == SPECIAL {
            return None;
        }
        if header & SHORT != 0 {
            let weight = i32::from(header & 0x3f) - if header & 0x40 != 0 { 64 } else { 0 };
            let (negative, scale) = (header & 0x2000 != 0, usize::from(header >> 7 & 0x3f));
            return Some(Number { negative, weight, scale, digits: rest });
        }
        let (weight, digits) = rest.split_first_chunk()?;
        let (negative, scale) = (header & 0x4000 != 0, usize::from(header & 0x3fff));
        Some(Number { negative, weight: i16::from_ne_bytes(*weight).into(), scale, digits })
    }

    /// Returns the digit to the base 10,000 at a place, counted from the first digit. Digits that are not stored are 0.
    fn digit(&self, place: i32) -> u16 {
        let digit = usize::try_from(place).ok().and_then(|place| self.digits.get(2 * place..2 * place + 2));
        digit.map_or(0, |digit| u16::from_ne_bytes([digit[0], digit[1]]))
    }

    /// Returns the number as an integer; `None` if it has a fraction. If the number needs more than 32 bits, the result is an integer of
    /// the same sign that also needs more than 32 bits, but need not be equal.
    pub fn integer(&self) -> Option<i64> {
        /// A number of 32 bits has at most this many digits to the base 10,000.
        const FEW: i32 = 3;
        let count = (self.digits.len() / 2) as i32;
        // The digits do not end with zeros. So if there is a digit after the point, there is a fraction.
        if count > self.weight + 1 {
            return None;
        }
        let whole = match self.weight {
            _ if count == 0 => 0,
            FEW.. => i64::MAX,
            weight => (0..=weight).fold(0, |whole, place| 10_000 * whole + i64::from(self.digit(place))),
        };
        Some(if self.negative { -whole } else { whole })
    }

    /// The number of characters in the text of `numeric_out`.
    pub fn plain_length(&self) -> usize {
        let whole = match self.weight {
            ..0 => 1,
            weight => decimals(self.digit(0)) + GROUP * weight as usize,
        };
        usize::from(self.negative) + whole + if self.scale > 0 { 1 + self.scale } else { 0 }
    }

    /// Writes the text of `numeric_out`. If that text is longer than [`MOST_PLAIN`], writes the same number with an exponent instead.
    pub fn write(&self, mut put: impl FnMut(&[u8])) {
        if self.negative {
            put(b"-");
        }
        if self.plain_length() > MOST_PLAIN {
            return self.write_with_exponent(put);
        }
        let mut place = 0;
        if self.weight < 0 {
            put(b"0");
        } else {
            let group = group(self.digit(0));
            put(&group[GROUP - decimals(self.digit(0))..]);
            for next in 1..=self.weight {
                put(&self::group(self.digit(next)));
            }
            place = self.weight + 1;
        }
        if self.scale > 0 {
            put(b".");
            place = if self.weight < 0 { self.weight + 1 } else { place };
            let mut left = self.scale;
            while left > 0 {
                let count = left.min(GROUP);
                put(&group(self.digit(place))[..count]);
                left -= count;
                place += 1;
            }
        }
    }

    fn write_with_exponent(&self, mut put: impl FnMut(&[u8])) {
        let first = decimals(self.digit(0));
        let mut digits: Vec<u8> = Vec::with_capacity(2 * self.digits.len());
        digits.extend(&group(self.digit(0))[GROUP - first..]);
        for place in 1..(self.digits.len() / 2) as i32 {
            digits.extend(group(self.digit(place)));
        }
        while digits.len() > 1 && digits.last() == Some(&b'0') {
            digits.pop();
        }
        put(&digits[..1]);
        if digits.len() > 1 {
            put(b".");
            put(&digits[1..]);
        }
        // A zero with a long scale has no digits, and no exponent.
        if !self.digits.is_empty() {
            put(format!("e{}", GROUP as i32 * self.weight + first as i32 - 1).as_bytes());
        }
    }
}

/// The number of decimal digits of a digit to the base 10,000, without leading zeros.
fn decimals(digit: u16) -> usize {
    match digit {
        0..10 => 1,
        10..100 => 2,
        100..1000 => 3,
        _ => GROUP,
    }
}

/// The decimal digits of a digit to the base 10,000, with leading zeros.
fn group(digit: u16) -> [u8; GROUP] {
    [digit / 1000, digit / 100 % 10, digit / 10 % 10, digit % 10].map(|decimal| b'0' + decimal as u8)
}

#[cfg(any(test, feature = "pg_test"))]
pub(crate) mod server_tests {
    use super::*;
    use crate::pg::jsonb::{Value, parse};
    use pgrx::AnyNumeric;

    fn number(text: &str) -> Number<'static> {
        match parse(text).root().get() {
            Value::Number(bytes) => Number::read(bytes).unwrap(),
            _ => panic!("{text} is not a number"),
        }
    }

    /// The text that `numeric_out` prints for a number.
    fn plain(text: &str) -> String {
        AnyNumeric::try_from(text).unwrap().to_string()
    }

    fn ours(text: &str) -> (String, usize) {
        let number = number(text);
        let mut out = Vec::new();
        number.write(|part| out.extend_from_slice(part));
        (String::from_utf8(out).unwrap(), number.plain_length())
    }

    /// Numbers with every shape of header, with digits before, around and after the point, and with trailing zeros.
    pub fn a_number_has_the_text_that_the_server_gives_it() {
        let mut texts: Vec<String> =
            ["0", "-0", "0.0", "0.000", "10000", "9999.9999", "1.0", "1e0", "-1.50", "1e-7", "123e20"]
                .map(String::from)
                .to_vec();
        let digits = "12345678900098765432100001";
        for length in [1, 2, 3, 4, 5, 7, 8, 9, 20, 26] {
            for exponent in [-300, -64, -63, -17, -9, -8, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 8, 9, 63, 64, 255, 300]
            {
                texts.push(format!("{}e{exponent}", &digits[..length]));
                texts.push(format!("-0.{}e{exponent}", &digits[26 - length..]));
            }
        }
        for text in texts {
            let plain = plain(&text);
            assert_eq!(ours(&text), (plain.clone(), plain.len()), "{text}");
        }
    }

    pub fn a_number_without_a_fraction_is_an_integer() {
        for (text, integer) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("1.0", Some(1)),
            ("1e0", Some(1)),
            ("-3.000", Some(-3)),
            ("12e3", Some(12_000)),
            ("2147483648", Some(2_147_483_648)),
            ("1e300", Some(i64::MAX)),
            ("-1e300", Some(-i64::MAX)),
            ("1.5", None),
            ("0.0001", None),
            ("1e-5", None),
            ("10000.5", None),
            ("123456789", Some(123_456_789)),
        ] {
            assert_eq!(number(text).integer(), integer, "{text}");
        }
    }

    /// A number of a few bytes must not print as 131 kB, and must stay the number that it is.
    pub fn a_long_number_is_printed_with_an_exponent() {
        for (text, printed) in [
            ("1e131071", "1e131071"),
            ("-1.25e131071", "-1.25e131071"),
            ("1e-16383", "1e-16383"),
            ("12345e1000", "1.2345e1004"),
            ("70.05e2000", "7.005e2001"),
            ("1e999", &format!("1{}", "0".repeat(999))),
            ("1e1000", "1e1000"),
            ("-1e999", "-1e999"),
        ] {
            let (ours, length) = ours(text);
            assert_eq!(ours, printed);
            assert_eq!(length, plain(text).len(), "{text}");
            assert_eq!(plain(&ours), plain(text), "{text}");
        }
        assert_eq!(ours(&format!("0.{}", "0".repeat(2000))).0, "0");
    }
}
