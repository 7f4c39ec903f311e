//! JSON text and the numbers in it. `crate::pg::jsonb` reads jsonb, the binary form.

pub mod number;
pub mod text;

use crate::pg::jsonb::{Node, Value};
use number::Number;

/// Returns the value as a number; `None` if it is not a number.
pub fn number(value: Node<'_>) -> Option<Number<'_>> {
    match value.get() {
        Value::Number(bytes) => Number::read(bytes),
        _ => None,
    }
}
