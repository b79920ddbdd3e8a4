//! A variant: a case with its parameters chosen. Its name is made of the parameters that were set.

use std::fmt;
use std::sync::Arc;

use inflight_gate::Phase;

use crate::fixture::Fixture;
use crate::kit::engine::Engine;
use crate::kit::memory::Memory;

/// How a variant is played, with or without the race.
type Play = Arc<dyn Fn(&mut Fixture<'_>, &Variant) -> anyhow::Result<()> + Send + Sync>;

/// Parameters of a case. What is not set has the case's default and no part in the name.
#[derive(Clone)]
pub struct Variant {
    /// What is special about it, in the case's own words.
    pub act: &'static str,
    /// How that is done, or to what; "" when there is one way. Behind a dash in the name.
    pub how: &'static str,
    engine: Option<Engine>,
    memory: Option<Memory>,
    phase: Option<Phase>,
    /// Mount options that it needs, on top of the target's own.
    pub mount: &'static str,
    /// Whether it ruins its mount and gets one of its own.
    pub fresh: bool,
    /// How it is played, with the parameters that only its case knows; none: as the case says.
    play: Option<Play>,
    /// Its name, where that is not made of the parameters.
    name: Option<String>,
}

impl fmt::Debug for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Variant {
    /// A variant with nothing but a word.
    pub fn new(act: &'static str) -> Variant {
        let (engine, memory, phase, name, play) = (None, None, None, None, None);
        Variant { act, how: "", engine, memory, phase, mount: "", fresh: false, name, play }
    }

    /// Played by this, which knows the parameters that have no name here.
    pub fn plays(
        mut self,
        play: impl Fn(&mut Fixture<'_>, &Variant) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Variant {
        self.play = Some(Arc::new(play));
        self
    }

    /// With this name instead of one made of the parameters.
    pub fn named(mut self, name: String) -> Variant {
        self.name = Some(name);
        self
    }

    /// Plays it, by `otherwise` unless it has a way of its own.
    ///
    /// # Errors
    /// What the case says.
    pub fn play(
        &self,
        fixture: &mut Fixture<'_>,
        otherwise: fn(&mut Fixture<'_>, &Variant) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match &self.play {
            Some(play) => play(fixture, self),
            None => otherwise(fixture, self),
        }
    }

    /// In this way: `punch` of a `read` is `punch-read`.
    pub fn how(mut self, how: &'static str) -> Variant {
        self.how = how;
        self
    }

    /// With this engine.
    pub fn engine(mut self, engine: Engine) -> Variant {
        self.engine = Some(engine);
        self
    }

    /// With this kind of memory.
    pub fn memory(mut self, memory: Memory) -> Variant {
        self.memory = Some(memory);
        self
    }

    /// Parked at this phase.
    pub fn phase(mut self, phase: Phase) -> Variant {
        self.phase = Some(phase);
        self
    }

    /// On a mount with these options.
    pub fn mount(mut self, options: &'static str) -> Variant {
        self.mount = options;
        self
    }

    /// On a mount of its own.
    pub fn fresh(mut self) -> Variant {
        self.fresh = true;
        self
    }

    /// Its engine, [`Engine::Pread`] unless set.
    pub fn engine_or_pread(&self) -> Engine {
        self.engine.unwrap_or(Engine::Pread)
    }

    /// Its memory, [`Memory::Anon`] unless set.
    pub fn memory_or_anon(&self) -> Memory {
        self.memory.unwrap_or(Memory::Anon)
    }

    /// Its phase, [`Phase::Received`] unless set.
    pub fn phase_or_received(&self) -> Phase {
        self.phase.unwrap_or(Phase::Received)
    }

    /// All options that it is mounted with, those of the whole run and its own.
    pub fn options(&self, run: &str) -> String {
        let parts = [run, self.mount].into_iter().filter(|options| !options.is_empty());
        parts.collect::<Vec<_>>().join(",")
    }

    /// E.g. `store/aio/thp/applied` or `plain/pread/direct_io`.
    pub fn name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let act = match self.how {
            "" => self.act.to_owned(),
            how => format!("{}-{how}", self.act),
        };
        let parts = [
            Some(&*act),
            self.engine.map(Engine::name),
            self.memory.map(Memory::name),
            self.phase.map(Phase::name),
            Some(self.mount).filter(|options| !options.is_empty()),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("/")
    }
}
