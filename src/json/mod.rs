//! JSON text and the numbers in it. `pg::jsonb` reads the binary form.

pub mod number;
pub mod text;

use crate::pg::jsonb::{Node, Value};
use number::Number;

/// The value as a number; `None` if it is not a number.
pub fn number(value: Node<'_>) -> Option<Number<'_>> {
    match value.get() {
        Value::Number(bytes) => Number::read(bytes),
        _ => None,
    }
}
