//! The one connection that listens for wake-ups, and who is woken by them.
//!
//! Streams say which channels they want; the connection follows. Whoever was not listened for meanwhile is woken once
//! it is: a wake-up that nobody heard is made up for by a pull.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_postgres::{AsyncMessage, Config, Error, NoTls};

use crate::error::cause;

/// Channels, and the streams that are woken by each.
type Channels = HashMap<String, Vec<Arc<Notify>>>;

/// What streams subscribe to.
pub struct Wake {
    channels: Mutex<Channels>,
    /// The set of channels is another one than before.
    changed: Notify,
}

impl Wake {
    /// Connects, now and whenever the connection is lost, and listens.
    pub fn start(mut config: Config) -> Arc<Self> {
        // A connection that died silently is noticed within a minute; the timers of the streams bridge it.
        config.keepalives_idle(Duration::from_secs(30)).keepalives_interval(Duration::from_secs(10));
        config.keepalives_retries(3).connect_timeout(Duration::from_secs(10));
        let wake = Arc::new(Self { channels: Mutex::default(), changed: Notify::new() });
        let listener = wake.clone();
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(100);
            loop {
                let mut listened = false;
                let outcome = listener.listen(&config, &mut listened).await;
                if listened {
                    pause = Duration::from_millis(100);
                }
                if let Err(error) = outcome {
                    tracing::warn!("not listening for wake-ups, trying again in {pause:?}: {error}{}", cause(&error));
                }
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
        });
        wake
    }

    /// A subscription to no channel yet.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        Subscription { wake: self.clone(), channels: Vec::new(), woken: Arc::default() }
    }

    /// One connection, until it ends.
    async fn listen(self: &Arc<Self>, config: &Config, listened: &mut bool) -> Result<(), Error> {
        // When the client is dropped, the connection ends, and the task with it.
        let (client, mut connection) = config.connect(NoTls).await?;
        let wake = self.clone();
        let mut incoming = tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message? {
                    wake.wake(&[notification.channel().to_string()]);
                }
            }
            Ok(())
        });
        let mut known: HashSet<String> = HashSet::new();
        loop {
            let wanted: HashSet<String> = self.lock().keys().cloned().collect();
            let new: Vec<String> = wanted.difference(&known).cloned().collect();
            let old = known.difference(&wanted).map(|channel| format!("UNLISTEN {};", quoted(channel)));
            let listen = new.iter().map(|channel| format!("LISTEN {};", quoted(channel)));
            let statements: String = old.chain(listen).collect();
            if !statements.is_empty() {
                client.batch_execute(&statements).await?;
            }
            *listened = true;
            // They may have missed something until now.
            self.wake(&new);
            known = wanted;
            tokio::select! {
                () = self.changed.notified() => {}
                outcome = &mut incoming => return outcome.unwrap_or(Ok(())),
            }
        }
    }

    fn wake(&self, channels: &[String]) {
        let all = self.lock();
        channels.iter().filter_map(|channel| all.get(channel)).flatten().for_each(|stream| stream.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().expect("nothing panics while it holds the lock")
    }
}

/// A stream's channels. They are left when it is dropped.
pub struct Subscription {
    wake: Arc<Wake>,
    channels: Vec<String>,
    woken: Arc<Notify>,
}

impl Subscription {
    /// Waits for a wake-up; one that came since the last time counts.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Subscribes to these channels instead of those before.
    pub fn set(&mut self, channels: Vec<String>) {
        let mut all = self.wake.lock();
        for channel in &channels {
            all.entry(channel.clone()).or_default().push(self.woken.clone());
        }
        for channel in std::mem::replace(&mut self.channels, channels) {
            if let Some(streams) = all.get_mut(&channel) {
                // One entry: the channel may be among the new ones too.
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

/// A channel as an identifier.
fn quoted(channel: &str) -> String {
    format!("\"{}\"", channel.replace('"', "\"\""))
}
