//! Streaming standbys: making, pausing, awaiting and promoting them. Also backups and dumps.

use postgres::Client;

use crate::cluster::{Cluster, DATABASE};
use crate::process::{give_to_server, run, server_command, wait_until};

impl Cluster {
    /// Starts a standby that streams from this server and has its settings.
    pub fn standby(&self, name: &str) -> Cluster {
        let mut standby = Cluster::empty(name);
        let source = format!("host={} user=postgres application_name={name}", self.socket_dir().display());
        let mut command = server_command("pg_basebackup");
        command.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", &source, "-D"]).arg(standby.data());
        run(&mut command).unwrap_or_else(|error| panic!("{error}"));
        standby.rename(name);
        // The configuration was copied from the primary, whose commits may wait for standbys.
        standby.configure(&[("synchronous_standby_names", "")]);
        standby.start();
        standby
    }

    /// Makes commits on this primary wait for all of these standbys, if `synchronous_commit` is on (the default).
    pub fn wait_for_commits_of(&self, standbys: &[&Cluster]) {
        let names: Vec<&str> = standbys.iter().map(|standby| standby.name()).collect();
        self.configure(&[("synchronous_standby_names", &format!("FIRST {} ({})", names.len(), names.join(", ")))]);
        self.reload();
        let mut client = self.superuser(DATABASE);
        wait_until("the standbys are synchronous", || {
            let sql =
                "SELECT count(*) FROM pg_stat_replication WHERE application_name = ANY ($1) AND sync_state = 'sync'";
            let row = client.query_one(sql, &[&names]).expect("pg_stat_replication is readable");
            row.get::<_, i64>(0) as usize == names.len()
        });
    }

    /// Takes a backup of this server, which [`Cluster::recover`] can start. The backup is not started here.
    pub fn backup(&self, name: &str) -> Cluster {
        let mut backup = Cluster::empty(name);
        let source = format!("host={} user=postgres", self.socket_dir().display());
        let mut command = server_command("pg_basebackup");
        command.args(["-X", "stream", "-c", "fast", "--no-sync", "-d", &source, "-D"]).arg(backup.data());
        run(&mut command).unwrap_or_else(|error| panic!("{error}"));
        backup.rename(name);
        backup
    }

    /// Starts this backup. It recovers from archived write-ahead log up to a target, and then becomes a primary.
    pub fn recover(&self, restore_command: &str, (target, value): (&str, &str)) {
        self.configure(&[
            ("archive_mode", "off"),
            ("restore_command", restore_command),
            (target, value),
            ("recovery_target_action", "promote"),
        ]);
        let signal = self.data().join("recovery.signal");
        std::fs::write(&signal, "").expect("the data directory is ours");
        give_to_server(&signal);
        self.start();
        let mut client = self.superuser(DATABASE);
        wait_until("the recovery ends", || {
            !client.query_one("SELECT pg_is_in_recovery()", &[]).expect("the state is readable").get::<_, bool>(0)
        });
    }

    /// Dumps a database as a superuser, and restores it into the database `into` of the server `other`, which may be
    /// this one.
    pub fn dump_into(&self, database: &str, format: &str, other: &Cluster, into: &str) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        give_to_server(file.path());
        let at = |cluster: &Cluster, name: &str| {
            format!("host={} user=postgres dbname={name}", cluster.socket_dir().display())
        };
        let mut dump = server_command("pg_dump");
        dump.args(["-F", format, "-d", &at(self, database), "-f"]).arg(file.path());
        run(&mut dump).unwrap_or_else(|error| panic!("{error}"));
        let mut restore = server_command(if format == "plain" { "psql" } else { "pg_restore" });
        match format {
            "plain" => restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &at(other, into), "-f"]),
            _ => restore.args(["-e", "-d", &at(other, into)]),
        };
        run(restore.arg(file.path())).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Pauses replay on this standby, which still receives write-ahead log. Returns when replay has paused. (Before
    /// PostgreSQL 14, it cannot wait for that.)
    pub fn pause_replay(&self) {
        let mut client = self.superuser(DATABASE);
        client.batch_execute("SELECT pg_wal_replay_pause()").expect("replay can be paused");
        // Before PostgreSQL 14 a requested pause cannot be told from one that has begun.
        if server_version(&mut client) >= 140000 {
            wait_until("replay pauses", || {
                let row =
                    client.query_one("SELECT pg_get_wal_replay_pause_state()", &[]).expect("the state is readable");
                row.get::<_, &str>(0) == "paused"
            });
        }
    }

    /// Resumes replay on this standby.
    pub fn resume_replay(&self) {
        self.superuser(DATABASE).batch_execute("SELECT pg_wal_replay_resume()").expect("replay can be resumed");
    }

    /// Waits until a standby shows everything that this primary has committed. Its replay must not be paused.
    pub fn wait_until_caught_up(&self, standby: &Cluster) {
        let mut primary = self.superuser(DATABASE);
        // This commit is flushed, and with it everything before it.
        primary.batch_execute("SELECT pg_logical_emit_message(true, 'mana_sync', '')").expect("WAL can be written");
        let row = primary.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).expect("the position is readable");
        let position: String = row.get(0);
        let mut client = standby.superuser(DATABASE);
        wait_until("the standby catches up", || {
            let sql = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
            client.query_one(sql, &[&position]).expect("the position is readable").get(0)
        });
    }

    /// Makes this standby a primary, and waits until it is one.
    pub fn promote(&self) {
        run(&mut self.pg_ctl("promote")).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The `server_version_num` of the server.
pub fn server_version(client: &mut Client) -> i32 {
    client.query_one("SELECT current_setting('server_version_num')::int", &[]).expect("the version is readable").get(0)
}
