//! The one connection that listens for wake-ups, and the streams that they wake.
//!
//! Streams subscribe to channels, and the connection listens to these channels. While it does not listen to a channel, wake-ups of that
//! channel are lost. So when it begins to listen to a channel, it wakes the streams of that channel, and they pull what they missed.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls};

use crate::error::cause;

/// The pause before the first attempt to connect again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The channels, each with the streams that it wakes.
type Channels = HashMap<String, Vec<Arc<Notify>>>;

/// The channels that streams subscribe to.
pub struct Wake {
    channels: Mutex<Channels>,
    /// Notified when a subscription changes.
    changed: Notify,
}

impl Wake {
    /// Starts a task that connects and listens, and that connects again when the connection is lost.
    pub fn start(mut config: Config) -> Arc<Self> {
        // Keepalives detect within a minute that the connection is dead. Until then, streams pull by their timers.
        config.keepalives_idle(Duration::from_secs(30)).keepalives_interval(Duration::from_secs(10));
        config.keepalives_retries(3).connect_timeout(Duration::from_secs(10));
        let wake = Arc::new(Self { channels: Mutex::default(), changed: Notify::new() });
        let listening = wake.clone();
        tokio::spawn(async move {
            loop {
                let connect = || Listener::connect(&listening, &config);
                let connected = connect.retry(pauses()).notify(warn).await;
                // The number of attempts has no limit, so that this is never an error.
                let Ok(listener) = connected else { continue };
                if let Err(error) = listener.follow().await {
                    warn(&error, FIRST_PAUSE);
                }
                sleep(FIRST_PAUSE).await;
            }
        });
        wake
    }

    /// Returns a subscription to no channel.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        Subscription { wake: self.clone(), channels: Vec::new(), woken: Arc::default() }
    }

    fn wake(&self, channels: &[String]) {
        let all = self.lock();
        channels.iter().filter_map(|channel| all.get(channel)).flatten().for_each(|stream| stream.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().expect("nothing panics while it holds the lock")
    }
}

/// A connection that listens.
struct Listener {
    wake: Arc<Wake>,
    /// The connection ends when the client is dropped, and the task that reads from it ends with it.
    client: Client,
    incoming: JoinHandle<Result<(), Error>>,
    /// The channels that the connection listens to.
    known: HashSet<String>,
}

impl Listener {
    /// Connects, and listens to the channels that streams are subscribed to now.
    async fn connect(wake: &Arc<Wake>, config: &Config) -> Result<Self, Error> {
        let (client, mut connection) = config.connect(NoTls).await?;
        let woken = wake.clone();
        let incoming = tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message? {
                    woken.wake(&[notification.channel().to_string()]);
                }
            }
            Ok(())
        });
        let mut listener = Self { wake: wake.clone(), client, incoming, known: HashSet::new() };
        listener.update().await?;
        Ok(listener)
    }

    /// Adapts the set of channels whenever subscriptions change, until the connection ends.
    async fn follow(mut self) -> Result<(), Error> {
        loop {
            tokio::select! {
                () = self.wake.changed.notified() => {}
                outcome = &mut self.incoming => return outcome.unwrap_or(Ok(())),
            }
            self.update().await?;
        }
    }

    /// Makes the connection listen to the channels that streams are subscribed to, and to no others.
    async fn update(&mut self) -> Result<(), Error> {
        let wanted: HashSet<String> = self.wake.lock().keys().cloned().collect();
        let new: Vec<String> = wanted.difference(&self.known).cloned().collect();
        let old = self.known.difference(&wanted).map(|channel| format!("UNLISTEN {};", quoted(channel)));
        let listen = new.iter().map(|channel| format!("LISTEN {};", quoted(channel)));
        let statements: String = old.chain(listen).collect();
        if !statements.is_empty() {
            self.client.batch_execute(&statements).await?;
        }
        // Streams may have missed a wake-up of a channel before the connection listened to it.
        self.wake.wake(&new);
        self.known = wanted;
        Ok(())
    }
}

/// Returns the pauses between attempts to connect.
fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::new().with_min_delay(FIRST_PAUSE).with_max_delay(Duration::from_secs(10)).without_max_times()
}

fn warn(error: &Error, pause: Duration) {
    tracing::warn!("not listening for wake-ups, trying again in {pause:.1?}: {error}{}", cause(error));
}

/// The subscription of a stream to channels. Dropping it unsubscribes the stream.
pub struct Subscription {
    wake: Arc<Wake>,
    channels: Vec<String>,
    woken: Arc<Notify>,
}

impl Subscription {
    /// Waits for a wake-up. Returns at once if one came since the last call.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Replaces the channels that the stream is subscribed to.
    pub fn set(&mut self, channels: Vec<String>) {
        let mut all = self.wake.lock();
        for channel in &channels {
            all.entry(channel.clone()).or_default().push(self.woken.clone());
        }
        for channel in std::mem::replace(&mut self.channels, channels) {
            if let Some(streams) = all.get_mut(&channel) {
                // Remove one entry only: the channel may be among the new ones too.
                let own = streams.iter().position(|stream| Arc::ptr_eq(stream, &self.woken));
                own.map(|own| streams.swap_remove(own));
                if streams.is_empty() {
                    all.remove(&channel);
                }
            }
        }
        drop(all);
        self.wake.changed.notify_one();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.set(Vec::new());
    }
}

/// Quotes a channel as an SQL identifier.
fn quoted(channel: &str) -> String {
    format!("\"{}\"", channel.replace('"', "\"\""))
}
