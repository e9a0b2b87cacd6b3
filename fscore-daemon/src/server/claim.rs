//! What a daemon takes before it confines itself, and cannot take afterwards.

use super::holder::Holder;
use super::socket::{Listener, Unbound};
use super::{ServeError, Server, system};
use crate::branch::base_list;
use crate::config::Config;
use crate::core::base::Grounds;
use crate::core::clock::{Clock, HostClock};
use crate::sandbox::{self, Needs};
use crate::store::Claim;
use shm_transport::control::Sandbox;
use shm_transport::control::service::Service;
use shm_transport::stats::StatsWriter;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The socket that the daemon will listen on.
#[derive(Debug)]
pub(super) enum Door {
    /// The service manager's.
    Handed(Listener),
    /// Its own.
    Own(Unbound),
}

impl Door {
    pub(super) fn open(self) -> Result<Listener, ServeError> {
        match self {
            Self::Handed(listener) => Ok(listener),
            Self::Own(unbound) => unbound.listen(),
        }
    }
}

/// A store, a socket and counters that are this process's own.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) config: Config,
    pub(super) service: Service,
    pub(super) store: Claim,
    /// Bases that the daemon before knew.
    pub(super) bases: BTreeSet<PathBuf>,
    pub(super) stats: StatsWriter,
    pub(super) door: Door,
}

impl Claimed {
    pub(super) fn take(mut config: Config, mut service: Service) -> Result<Self, ServeError> {
        let dir = &config.paths.store;
        config.paths.check_store()?;
        let store = Claim::take(dir).map_err(|source| ServeError::Store { store: dir.clone(), source })?;
        for base in &mut config.allow_base {
            // One that does not exist yet stays as it was written.
            if let Ok(path) = base.canonicalize() {
                *base = path;
            }
        }
        let bases =
            base_list::read(dir).map_err(system(format!("cannot read the list of bases in {}", dir.display())))?;
        let door = match service.take_inherited() {
            handed if handed.is_empty() => Door::Own(Unbound::prepare(&config.paths)?),
            handed => Door::Handed(Listener::inherit(handed, &config.paths)?),
        };
        let started = HostClock.now().sec;
        let stats = StatsWriter::create(dir, started).unwrap_or_else(|error| {
            tracing::warn!(%error, "no counters can be shown: their segment in /dev/shm cannot be had");
            StatsWriter::unseen(started)
        });
        Ok(Self { config, service, store, bases, stats, door })
    }

    /// Goes on in this process as it is.
    pub(super) fn unconfined(self) -> Result<Server, ServeError> {
        let holder = Holder::OnDemand(self.config.paths.holder_socket());
        Server::open(self, Grounds::anywhere(), Sandbox::default(), holder)
    }

    /// Confines this process for good, then goes on.
    pub(super) fn confined(self) -> Result<Server, ServeError> {
        let holder = Holder::connect(self.config.paths.holder_socket());
        let allowed = &self.config.allow_base;
        let known =
            self.bases.iter().filter(|base| !self.config.only_these || allowed.iter().any(|a| base.starts_with(a)));
        let grounds = Grounds::take(allowed, &known.cloned().collect::<Vec<_>>());
        let socket_dir = sandbox::dir_of(&self.config.paths.socket);
        let needs = Needs { store: &self.config.paths.store, socket_dir: &socket_dir, grounds: &grounds };
        let done = sandbox::confine(&needs).inspect_err(|_| super::remove_counters(&self.stats))?;
        if done.missing.is_empty() {
            tracing::info!("confined");
        } else {
            tracing::warn!(missing = ?done.missing, "confined as far as this system can");
        }
        Server::open(self, grounds, done, holder)
    }
}
