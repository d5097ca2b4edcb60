//! The maps about hosts' names: what each agent was answered, where it was let go because of it, where the resolvers
//! are, and who asks them. Apart from the other tables, so that no lookup waits for anything else.

use agentguard_common::name::{
    DestinationKey, NameGrant, NameKey, QuestionFrom, QuestionKey, Resolver,
};
use aya::maps::{HashMap, Map, MapData, MapError};

use super::{Error, Plain, access, gone, layout, open};
use crate::pins::Pins;

/// Those maps.
pub struct HostTables {
    grants: HashMap<MapData, Plain<NameKey>, Plain<NameGrant>>,
    destinations: HashMap<MapData, Plain<DestinationKey>, u64>,
    resolvers: HashMap<MapData, u64, Plain<Resolver>>,
    questions: HashMap<MapData, Plain<QuestionKey>, Plain<QuestionFrom>>,
    /// Of the grant that was written last.
    serial: u64,
}

impl HostTables {
    /// Opens the pinned maps, whose layouts the loader has checked.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let map = |name| {
            open(pins, name).and_then(|map| {
                Map::from_map_data(map).map_err(|source| Error::Open { name, source })
            })
        };
        Ok(Self {
            grants: HashMap::try_from(map(layout::NAME_GRANTS)?)
                .map_err(access("begin", layout::NAME_GRANTS))?,
            destinations: HashMap::try_from(map(layout::DESTINATIONS)?)
                .map_err(access("begin", layout::DESTINATIONS))?,
            resolvers: HashMap::try_from(map(layout::RESOLVERS)?)
                .map_err(access("begin", layout::RESOLVERS))?,
            questions: HashMap::try_from(map(layout::QUESTIONS)?)
                .map_err(access("begin", layout::QUESTIONS))?,
            // No daemon before wrote the same one: the boot clock goes on.
            serial: crate::event::clock::boot_ns(),
        })
    }

    /// Adds or replaces a grant, whose serial is chosen here.
    pub fn insert_grant(&mut self, grant: NameGrant) -> Result<(), Error> {
        self.serial += 1;
        let grant = NameGrant {
            serial: self.serial,
            serial_again: self.serial,
            ..grant
        };
        self.grants
            .insert(Plain(grant.key), Plain(grant), 0)
            .map_err(access("insert", layout::NAME_GRANTS))
    }

    pub fn remove_grant(&mut self, key: NameKey) -> Result<(), Error> {
        gone(self.grants.remove(&Plain(key))).map_err(access("remove", layout::NAME_GRANTS))
    }

    /// The key of every grant.
    pub fn grants(&self) -> Result<Vec<NameKey>, Error> {
        self.grants
            .keys()
            .map(|key| key.map(|key| key.0))
            .collect::<Result<_, _>>()
            .map_err(access("list", layout::NAME_GRANTS))
    }

    /// Where agents were let go because of a name, and when (boot clock, in nanoseconds).
    pub fn destinations(&self) -> Result<Vec<(DestinationKey, u64)>, Error> {
        self.destinations
            .iter()
            .map(|entry| entry.map(|(key, boot_ns)| (key.0, boot_ns)))
            .collect::<Result<_, _>>()
            .map_err(access("list", layout::DESTINATIONS))
    }

    pub fn insert_destination(&mut self, key: DestinationKey, boot_ns: u64) -> Result<(), Error> {
        self.destinations
            .insert(Plain(key), boot_ns, 0)
            .map_err(access("insert", layout::DESTINATIONS))
    }

    pub fn remove_destination(&mut self, key: DestinationKey) -> Result<(), Error> {
        gone(self.destinations.remove(&Plain(key))).map_err(access("remove", layout::DESTINATIONS))
    }

    /// The resolver of the network namespace with this cookie.
    pub fn resolver(&self, cookie: u64) -> Result<Option<Resolver>, Error> {
        match self.resolvers.get(&cookie, 0) {
            Ok(resolver) => Ok(Some(resolver.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(access("look up", layout::RESOLVERS)(error)),
        }
    }

    /// The cookie of every network namespace that has one.
    pub fn resolvers(&self) -> Result<Vec<u64>, Error> {
        self.resolvers
            .keys()
            .collect::<Result<_, _>>()
            .map_err(access("list", layout::RESOLVERS))
    }

    pub fn insert_resolver(&mut self, cookie: u64, resolver: Resolver) -> Result<(), Error> {
        self.resolvers
            .insert(cookie, Plain(resolver), 0)
            .map_err(access("insert", layout::RESOLVERS))
    }

    pub fn remove_resolver(&mut self, cookie: u64) -> Result<(), Error> {
        gone(self.resolvers.remove(&cookie)).map_err(access("remove", layout::RESOLVERS))
    }

    /// Who sent something to a resolver.
    pub fn question(&self, key: QuestionKey) -> Result<Option<QuestionFrom>, Error> {
        match self.questions.get(&Plain(key), 0) {
            Ok(from) => Ok(Some(from.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(access("look up", layout::QUESTIONS)(error)),
        }
    }
}
