//! Tests of pulls from the HTTP front end in `examples`: pages of records, the parameters of a pull, and the entity tags of answers.
//!
//! Fails if a pull is answered with 304 although something came or the device has to be told something; if an answer has the wrong items;
//! or if a bad parameter is not answered with 400.

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::http::{
    HeaderMap, Http, HttpDevice, SECRET, changeset, cluster, database_url, ids, insert, insert_with, join, leave,
};
use serde_json::{Value, json};

#[test]
fn a_pull_of_records_has_what_became_of_them() {
    let cluster = cluster();
    let http = Http::new(&cluster);
    let (mut phone, laptop) = (http.device("ann", "phone"), http.device("ann", "laptop"));
    phone.pull(10);
    let edited = json!({"table": "items", "id": "milk", "op": "update", "fields": {"title": {"value": "Oat milk"}}});
    let note = json!({"table": "notes", "id": "note", "op": "insert", "data": {}});
    phone.clone().sync(json!([insert("milk"), edited, note]));

    let (status, body) = laptop.get("/sync/todo/pull?records=true");
    assert_eq!((status, &body["serverChanges"], &body["hasMore"]), (200, &json!([]), &json!(false)), "{body}");
    assert_eq!(ids(&body, "records"), ["milk", "note"]);
    assert_eq!(body["records"][0]["data"], json!({"title": "Oat milk"}));
    let (_, body) = laptop.get("/sync/todo/pull?records=true&collection=notes");
    assert_eq!(ids(&body, "records"), ["note"]);
    for path in ["/sync/todo/pull", "/sync/todo/pull?records=false"] {
        let (_, body) = laptop.get(path);
        assert_eq!(
            (ids(&body, "serverChanges"), &body["records"]),
            (vec!["milk", "milk", "note"], &Value::Null),
            "{path}"
        );
    }

    // A page has as many as are asked for, and its cursor leads to the next.
    for (form, key, expected) in
        [("true", "records", vec!["milk", "note"]), ("false", "serverChanges", vec!["milk", "milk", "note"])]
    {
        let (mut got, mut cursor, mut more) = (Vec::new(), String::new(), true);
        while more {
            let (status, body) = laptop.get(&format!("/sync/todo/pull?records={form}&limit=1&since={cursor}"));
            assert_eq!(status, 200, "{body}");
            let page = ids(&body, key);
            assert!(page.len() == 1 || page.is_empty() && got.len() == expected.len(), "{body}");
            got.extend(page.into_iter().map(str::to_string));
            cursor = body["syncedUntil"].as_str().expect("a cursor").into();
            more = body["hasMore"] == json!(true);
        }
        assert_eq!(got, expected, "{form}");
    }

    // A device is sent what it wrote itself if it asks for that, or for records.
    for (query, own) in
        [("", 0), ("&records=false", 0), ("&echo=false", 0), ("&echo=true", 3), ("&records=false&echo=true", 3)]
    {
        let (status, body) = phone.get(&format!("/sync/todo/pull?since={}{query}", phone.cursor));
        assert_eq!((status, ids(&body, "serverChanges").len()), (200, own), "{query} {body}");
    }
    let (_, body) = phone.get(&format!("/sync/todo/pull?since={}&records=true", phone.cursor));
    assert_eq!(ids(&body, "records"), ["milk", "note"]);
}

/// Returns the entity tag of the answer to a pull. Panics if a cache may keep the answer.
fn tag(headers: &HeaderMap) -> String {
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers.get_all("etag").iter().count(), 1, "{headers:?}");
    headers["etag"].to_str().expect("ASCII").into()
}

/// Pulls with If-None-Match, and panics if anything new comes. Returns the tag of the answer.
fn nothing_new(device: &HttpDevice, path: &str, condition: &str) -> String {
    let (status, headers, body) = device.get_if_none_match(path, condition);
    assert_eq!((status, body.as_str()), (304, ""), "{path} {condition}");
    assert!(headers.contains_key("date"), "{headers:?}");
    // A 304 may have no length but that of the body of a 200.
    for absent in ["content-type", "content-length", "transfer-encoding"] {
        assert!(!headers.contains_key(absent), "{headers:?}");
    }
    tag(&headers)
}

/// Pulls with If-None-Match, and panics if nothing new comes. Returns the body, and the new tag, which is the cursor.
fn something_new(device: &HttpDevice, path: &str, condition: &str) -> (Value, String) {
    let (status, headers, body) = device.get_if_none_match(path, condition);
    assert_eq!((status, &headers["content-type"]), (200, &"application/json".parse().unwrap()), "{path} {body}");
    let (body, tag): (Value, String) = (serde_json::from_str(&body).expect("JSON"), tag(&headers));
    assert_eq!(json!(tag), json!(format!("\"{}\"", body["syncedUntil"].as_str().expect("a cursor"))));
    (body, tag)
}

#[test]
fn a_pull_with_the_tag_of_the_last_answer_is_304_where_nothing_came() {
    let cluster = cluster();
    let http = Http::new(&cluster);
    join(&cluster, "ann", "home");
    let (pull, records) = ("/sync/todo/pull", "/sync/todo/pull?records=true");
    let (mut phone, laptop) = (http.device("ann", "phone"), http.device("ann", "laptop"));
    phone.sync(json!([insert("milk"), insert_with("tea", "spaceId", "home")]));

    // Whoever begins at the beginning gets everything, whatever its tag is.
    let (body, first) = something_new(&laptop, "/sync/todo/pull?since=", "\"a tag\"");
    assert_eq!((ids(&body, "serverChanges"), &body["spaces"]), (vec!["milk", "tea"], &json!(["home"])));
    let (again, _) = something_new(&laptop, "/sync/todo/pull?since=", &first);
    assert_eq!(again["serverChanges"], body["serverChanges"]);

    let cursor = first.trim_matches('"');
    let with_since = format!("{pull}?since={cursor}");
    for path in [pull, records, "/sync/todo/pull?limit=1", "/sync/todo/pull?echo=true", &with_since] {
        for condition in [first.as_str(), &format!("W/{first}"), &format!(" {first} ")] {
            nothing_new(&laptop, path, condition);
        }
    }
    for condition in ["*", "\"one\", \"two\"", "no tag"] {
        nothing_new(&laptop, &with_since, condition);
    }
    let (status, body) = laptop.get(&with_since);
    assert_eq!((status, &body["serverChanges"]), (200, &json!([])), "no 304 without If-None-Match");

    // The changes of others move the cursor, and so the tag. What comes later comes to the old tag and to the new one.
    http.device("ben", "phone").sync(json!([insert("private")]));
    let moved = nothing_new(&laptop, pull, &first);
    assert!(moved > first, "{first} {moved}");
    phone.sync(json!([insert("jam")]));
    let mut last = String::new();
    for condition in [&first, &moved] {
        for (path, key) in [(pull, "serverChanges"), (records, "records")] {
            let (body, tag) = something_new(&laptop, path, condition);
            assert_eq!(ids(&body, key), ["jam"]);
            assert!(tag > moved, "{moved} {tag}");
            last = tag;
        }
    }
    nothing_new(&laptop, pull, &last);
    // A pull reads from `since` where it has both.
    let (body, _) = something_new(&laptop, &with_since, &last);
    assert_eq!(ids(&body, "serverChanges"), ["jam"]);
    nothing_new(&laptop, &format!("{pull}?since={}", last.trim_matches('"')), &first);

    // A device's own changes are nothing new to it, unless it asks for them.
    laptop.clone().sync(json!([insert("salt")]));
    nothing_new(&laptop, pull, &last);
    assert_eq!(ids(&something_new(&laptop, "/sync/todo/pull?echo=true", &last).0, "serverChanges"), ["salt"]);
    assert_eq!(ids(&something_new(&laptop, records, &last).0, "records"), ["salt"]);

    // A device can sync by its tags alone, until nothing more comes.
    let mut got = Vec::new();
    let (mut body, mut condition) = something_new(&laptop, "/sync/todo/pull?limit=1&since=", "\"a tag\"");
    let one = "/sync/todo/pull?limit=1";
    loop {
        let page = ids(&body, "serverChanges");
        assert_eq!(page.len(), 1, "{body}");
        got.push(page[0].to_string());
        if got.len() == 4 {
            break;
        }
        (body, condition) = something_new(&laptop, one, &condition);
    }
    assert_eq!(got, ["milk", "tea", "jam", "salt"]);
    condition = nothing_new(&laptop, one, &condition);

    // Who missed a delete that was purged has to begin again. The answer is no state that a tag could name.
    phone.sync(json!([{"table": "items", "id": "tea", "op": "delete", "spaceId": "home"}]));
    cluster.superuser(DATABASE).batch_execute("SELECT mana_sync.purge_deleted('0')").unwrap();
    let (status, headers, body) = laptop.get_if_none_match(pull, &condition);
    assert!(body.contains("\"resyncRequired\":true"), "{body}");
    assert_eq!((status, &headers["cache-control"]), (409, &"no-store".parse().unwrap()));
    assert!(!headers.contains_key("etag"), "{headers:?}");
}

#[test]
fn a_page_without_records_is_no_304_while_there_is_more() {
    let cluster = cluster();
    let http = Http::new(&cluster);
    let mut device = http.device("ann", "phone");
    device.pull(10);
    // A page passes over 50,000 changes at most.
    let edits =
        "SELECT count(mana_sync.record_change('todo', 'items', 'counter', 'ann', NULL, 'insert', 'laptop', '{}'))
        FROM generate_series(1, 100100)";
    cluster.app(DATABASE).batch_execute(edits).unwrap();
    let path = "/sync/todo/pull?records=true&limit=1";
    let (body, tag) = something_new(&device, path, &format!("\"{}\"", device.cursor));
    assert_eq!((ids(&body, "records"), &body["hasMore"]), (vec!["counter"], &json!(true)));
    let (body, tag) = something_new(&device, path, &tag);
    assert_eq!((&body["records"], &body["hasMore"]), (&json!([]), &json!(true)));
    nothing_new(&device, path, &tag);
}

#[test]
fn a_space_that_was_joined_or_left_is_no_304() {
    let cluster = cluster();
    let http = Http::new(&cluster);
    for (user, path) in [("ann", "/sync/todo/pull?records=false"), ("ben", "/sync/todo/pull?records=true")] {
        let device = http.device(user, "phone");
        let (body, tag) = something_new(&device, &format!("{path}&since="), "\"\"");
        assert_eq!(body["spaces"], json!([]), "{path}");
        let mut tag = nothing_new(&device, path, &tag);
        for (joins, space, spaces) in [
            (true, "home", json!(["home"])),
            (true, "work", json!(["home", "work"])),
            (false, "home", json!(["work"])),
            (false, "work", json!([])),
        ] {
            let step = if joins { join } else { leave };
            step(&cluster, user, space);
            let (body, news) = something_new(&device, path, &tag);
            assert_eq!((&body["spaces"], &body["serverChanges"]), (&spaces, &json!([])), "{path} {space}");
            assert!(body["records"].as_array().is_none_or(Vec::is_empty), "{body}");
            tag = nothing_new(&device, path, &news);
        }
    }
}

#[test]
fn a_bad_parameter_of_a_pull_is_400() {
    let cluster = cluster();
    let http = Http::new(&cluster);
    let mut device = http.device("ann", "phone");
    device.sync(json!([insert("milk")]));
    for (query, message) in [
        ("records=yes", "records: provided string was not `true` or `false`"),
        ("records=1", "records: "),
        ("records=", "records: "),
        ("records=true&records=false", "duplicate field `records`"),
        ("echo=yes", "echo: provided string was not `true` or `false`"),
        ("echo=1", "echo: "),
        ("echo=", "echo: "),
        ("limit=0", "limit: "),
        ("limit=-1", "limit: "),
        ("limit=1.5", "limit: "),
        ("limit=", "limit: "),
        ("limit=99999999999", "limit: "),
    ] {
        for tag in ["", "\"a tag\""] {
            let (status, _, body) = device.get_if_none_match(&format!("/sync/todo/pull?{query}"), tag);
            assert_eq!(status, 400, "{query} {body}");
            let body: Value = serde_json::from_str(&body).expect("JSON");
            assert!(body["error"].as_str().is_some_and(|error| error.contains(message)), "{query} {body}");
        }
    }
    let damaged = format!("\"{}!\"", device.cursor);
    let unquoted = device.cursor.clone();
    for condition in [damaged.as_str(), &unquoted, "*", "\"one\", \"two\"", "\"one", "\"", "W/", ""] {
        let (status, _, body) = device.get_if_none_match("/sync/todo/pull", condition);
        assert_eq!(status, 400, "{condition} {body}");
        let names_it = body.contains(if condition == damaged { "since" } else { "If-None-Match" });
        assert!(names_it, "{condition} {body}");
    }
    // A tag that is no cursor, such as one of another server, is the beginning.
    let (body, _) = something_new(&device, "/sync/todo/pull?records=false&echo=false&limit=1", "\"5d41402a\"");
    assert_eq!(ids(&body, "serverChanges"), ["milk"]);
}

#[test]
fn a_front_end_whose_transactions_are_read_only_answers_pulls() {
    let cluster = cluster();
    let url = format!("{} options='-c default_transaction_read_only=on'", database_url(&cluster));
    let reading = Http::with(&[("DATABASE_URL", &url), ("JWT_HS256_SECRET", SECRET)]);
    join(&cluster, "ann", "home");
    let written = changeset(&[insert_with("milk", "spaceId", "home")]);
    let device = reading.device("ann", "laptop");
    assert_eq!(device.post(&written).0, 503, "its transactions are read-only");
    assert_eq!(Http::new(&cluster).device("ann", "phone").post(&written).0, 200);
    assert_eq!(device.clone().pull(10).len(), 1);
    let (status, body) = device.get("/sync/todo/pull?records=true");
    assert_eq!((status, ids(&body, "records")), (200, vec!["milk"]), "{body}");
    nothing_new(&device, "/sync/todo/pull", &format!("\"{}\"", body["syncedUntil"].as_str().expect("a cursor")));
}
