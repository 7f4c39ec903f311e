//! Who changed which field, when, from what to what.

use crate::change::Stamp;

/// Something that happened to a record. `T` is what the caller wants to tell of the change; `V` a value.
#[derive(Clone, Debug)]
pub struct Event<T, V> {
    /// When.
    pub stamp: Stamp,
    /// Whether it is a delete.
    pub deletes: bool,
    /// The field and what was written to it; none for a delete, or an insert without fields.
    pub field: Option<(Vec<u8>, V)>,
    /// Of the change.
    pub of: T,
}

/// The events in the order of their times, each with the value that its field had before: that of the latest
/// earlier write, if the record has not been deleted since.
pub fn tell<T, V: Clone>(mut events: Vec<Event<T, V>>) -> Vec<(Event<T, V>, Option<V>)> {
    events.sort_by(|a, b| (a.stamp, field_name(a)).cmp(&(b.stamp, field_name(b))));
    let mut current = std::collections::HashMap::new();
    let told = events.into_iter().map(|event| {
        let before = match &event.field {
            Some((name, value)) => current.insert(name.clone(), value.clone()),
            None => None,
        };
        if event.deletes {
            current.clear();
        }
        (event, before)
    });
    told.collect()
}

fn field_name<T, V>(event: &Event<T, V>) -> Option<&[u8]> {
    event.field.as_ref().map(|(name, _)| name.as_slice())
}
