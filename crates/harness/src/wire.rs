//! Changes in the wire format: removes what the server adds to the changes that devices send.

use chrono::DateTime;
use serde_json::{Map, Value};

/// Removes from a returned change what the server added: the time at which it was recorded, its position, and the times that the device did
/// not send. Panics unless each of them is there and is right. The time of a write that was sent without one has to be that of its record,
/// or else that of the recording.
pub fn remove_added(change: &mut Value, sent: &Value) {
    let object = change.as_object_mut().expect("a change is an object");
    let recorded = object.remove("recordedAt").expect("a change says when it was recorded");
    DateTime::parse_from_rfc3339(recorded.as_str().expect("a time is a string")).expect("a time is one of RFC 3339");
    let position = object.remove("position").expect("a change has a position");
    assert!(!position.as_str().expect("a position is a string").is_empty());
    let data = object.get("data").cloned().unwrap_or_default();
    let of_record = ["updatedAt", "createdAt"]
        .iter()
        .find_map(|key| data[key].as_str().filter(|time| DateTime::parse_from_rfc3339(time).is_ok()).map(Value::from));
    match object.get("op").and_then(Value::as_str) {
        Some("insert") => remove_time(object, "at", sent, &[of_record.as_ref().unwrap_or(&recorded), &recorded]),
        Some("delete") => remove_time(object, "deletedAt", sent, &[&recorded]),
        _ => {
            for (name, field) in object["fields"].as_object_mut().expect("an update has fields") {
                let field = field.as_object_mut().expect("a field is an object");
                remove_time(field, "at", &sent["fields"][name], &[&recorded]);
            }
        }
    }
}

/// Removes a time that the device did not send. Panics unless the time is one of `allowed`.
fn remove_time(object: &mut Map<String, Value>, key: &str, sent: &Value, allowed: &[&Value]) {
    if !sent[key].is_string() && !sent["updatedAt"].is_string() {
        let time = object.remove(key).expect("every write has a time");
        assert!(allowed.contains(&&time), "{key} is {time}, and not one of {allowed:?}");
    }
}
