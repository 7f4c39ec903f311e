//! A push, a pull, a warning and an error, with tokio-postgres.

use tokio_postgres::{AsyncMessage, Config, Error, NoTls};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut config = Config::new();
    config.host(std::env::var("PGHOST").expect("PGHOST")).user("app").dbname("postgres");
    let (client, mut connection) = config.connect(NoTls).await?;
    // `tokio::spawn(connection)`, with warnings.
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(warning) = message {
                println!("{} {}", warning.severity(), warning.message());
            }
        }
    });
    let changeset = r#"{"clientId": "phone", "changes": [{"table": "items", "id": "milk", "op": "insert",
        "data": {"title": "Milk"}, "spaceId": "home"}]}"#;
    let (home, none) = (vec!["home"], Vec::<&str>::new());

    let push = "SELECT mana_sync.push($1, $2, $3::text::jsonb, space_ids => $4)::text";
    println!("{}", client.query_one(push, &[&"ada", &"todo", &changeset, &home]).await?.get::<_, &str>(0));
    let pull = "SELECT mana_sync.pull($1, $2, since => $3, space_ids => $4)::text";
    let row = client.query_one(pull, &[&"ben", &"todo", &None::<&str>, &home]).await?;
    println!("{}", row.get::<_, &str>(0).contains(r#""id":"milk""#));
    client.query_one(pull, &[&"ben", &"todo", &Some("yesterday"), &home]).await?;
    if let Err(error) = client.query_one(push, &[&"ada", &"todo", &changeset, &none]).await {
        let error = error.as_db_error().expect("an error of the server");
        println!("{} {}", error.code().code(), error.message());
        println!("{}", error.detail().unwrap_or_default());
    }
    Ok(())
}
