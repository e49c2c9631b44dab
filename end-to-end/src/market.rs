//! A market: discovery, port checker and providers.

use std::path::Path;

use tempfile::TempDir;

use crate::engine::Engine;
use crate::place::Place;
use crate::private_engine::PrivateEngine;
use crate::programs::program;
use crate::provider::{Provider, ProviderOptions};
use crate::requestor::Requestor;
use crate::service::Service;
use crate::waiting::eventually;

/// A market on loopback, with state of its own.
#[derive(Debug)]
pub struct Market {
    /// The providers, in the order in which they were asked for.
    pub providers: Vec<Provider>,
    /// Who offers what.
    pub discovery: Service,
    /// What can be reached.
    pub checker: Service,
    place: Place,
    providers_place: Place,
    engine: Engine,
    // Dropped last: the others have their directories in it.
    directory: TempDir,
}

impl Market {
    /// With one provider, on the engine that all tests share.
    #[must_use]
    pub fn with_one_provider() -> Self {
        Self::with_providers(&[ProviderOptions::default()])
    }

    /// With these providers, on the engine that all tests share.
    #[must_use]
    pub fn with_providers(options: &[ProviderOptions]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path());
        Self::at(directory, &place, &Engine::shared(), options)
    }

    /// With these providers, in a place and on an engine of its own.
    #[must_use]
    pub fn in_place(place: &Place, engine: &Engine, options: &[ProviderOptions]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = place.clone().with_home(directory.path());
        Self::at(directory, &place, engine, options)
    }

    /// With one provider on the backend that the options name, which has that image, in this place.
    #[must_use]
    pub fn on_backend(place: &Place, image: &str, options: &ProviderOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let own = place.clone().with_home(directory.path());
        let mut market =
            Self::without_providers(directory, &own, "127.0.0.1", place, &Engine::shared());
        let (discovery, checker) = (market.discovery.url(), market.checker.url());
        let mut provider =
            Provider::on_backend("provider-1", place, image, &discovery, &checker, options);
        provider.start();
        market.providers.push(provider);
        market.wait_until_listed();
        market
    }

    fn at(directory: TempDir, place: &Place, engine: &Engine, options: &[ProviderOptions]) -> Self {
        let mut market = Self::without_providers(directory, place, "127.0.0.1", place, engine);
        for options in options {
            market.add_provider(options);
        }
        market.wait_until_listed();
        market
    }

    fn without_providers(
        directory: TempDir,
        place: &Place,
        address: &str,
        providers_place: &Place,
        engine: &Engine,
    ) -> Self {
        let start = |name: &str| start(name, address, "0", place, directory.path());
        Self {
            providers: Vec::new(),
            discovery: start("discovery"),
            checker: start("port-checker"),
            place: place.clone(),
            providers_place: providers_place.clone(),
            engine: engine.clone(),
            directory,
        }
    }

    /// With one provider, in a place and on an engine of its own, which has to outlive it. `None`, and a
    /// line that says so, where this user may not.
    #[must_use]
    pub fn on_an_engine_of_its_own(options: &ProviderOptions) -> Option<(PrivateEngine, Self)> {
        let private = PrivateEngine::start()?;
        let market = Self::on_this_engine(&private, options);
        Some((private, market))
    }

    /// With one provider, on such an engine that is there already.
    #[must_use]
    pub fn on_this_engine(private: &PrivateEngine, options: &ProviderOptions) -> Self {
        private.copy_image_of_the_shared_engine();
        let options = std::slice::from_ref(options);
        Self::in_place(&private.place(), &private.engine(), options)
    }

    /// With one provider on such an engine, and everybody else at `address` in another place.
    #[must_use]
    pub fn across(
        private: &PrivateEngine,
        outside: &Place,
        address: &str,
        options: &ProviderOptions,
    ) -> Self {
        private.copy_image_of_the_shared_engine();
        let directory = tempfile::tempdir().unwrap();
        let outside = outside.clone().with_home(directory.path());
        let mut market = Self::without_providers(
            directory,
            &outside,
            address,
            &private.place(),
            &private.engine(),
        );
        market.add_provider(options);
        market.wait_until_listed();
        market
    }

    /// Starts the port checker where it was, after it was killed.
    pub fn start_checker_again(&mut self) {
        self.checker = again(&self.checker, "port-checker", &self.place, self.directory.path());
    }

    /// Starts discovery where it was, after it was killed.
    pub fn start_discovery_again(&mut self) {
        self.discovery = again(&self.discovery, "discovery", &self.place, self.directory.path());
    }

    /// Adds a provider and starts it.
    pub fn add_provider(&mut self, options: &ProviderOptions) {
        let name = format!("provider-{}", self.providers.len() + 1);
        let (discovery, checker) = (self.discovery.url(), self.checker.url());
        let mut provider = Provider::new(
            &name,
            &self.providers_place,
            &self.engine,
            &discovery,
            &checker,
            options,
        );
        provider.start();
        self.providers.push(provider);
    }

    /// Waits until all providers are offered to requestors.
    pub fn wait_until_listed(&self) {
        let requestor = self.requestor();
        eventually("all providers are listed", || {
            let listed = requestor.golem(&["vm", "providers", "--json", "--cpu", "1"]);
            self.providers.iter().all(|provider| listed.stdout.contains(provider.id()))
        });
    }

    /// A new requestor with an empty home directory.
    #[must_use]
    pub fn requestor(&self) -> Requestor {
        Requestor::new(&self.place, &self.discovery.url())
    }

    /// The only provider, or the first.
    pub fn provider(&mut self) -> &mut Provider {
        &mut self.providers[0]
    }

    /// One of the providers, in the order of coming.
    #[must_use]
    pub fn provider_at(&self, place: usize) -> &Provider {
        &self.providers[place]
    }

    /// Where the market's programs run.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// Where the market's own files are.
    #[must_use]
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// How many instances of VMs there are, of all providers. A starting provider may have one more container for a
    /// moment, in which it tries what the engine enforces.
    #[must_use]
    pub fn instances(&self) -> usize {
        let containers = self.providers.iter().flat_map(|provider| provider.containers());
        containers.filter(|container| container["Labels"]["golem.vm"].is_string()).count()
    }

    /// Purges every provider, and fails if anything is left of any.
    pub fn close(mut self) {
        // The last first: it may have the same ports as an earlier one, on another address.
        for provider in self.providers.iter_mut().rev() {
            provider.purge();
        }
    }
}

/// Starts a service on loopback, with the data directory of its name.
fn start(name: &str, host: &str, port: &str, place: &Place, directory: &Path) -> Service {
    let binary = if name == "discovery" { "golem-discovery" } else { name };
    let mut command = place.command(program(binary));
    // The market is on loopback, or beside it.
    command.env("PORT_CHECKER_ALLOW_PRIVATE_ADDRESSES", "true");
    // Elsewhere they have to know what they are called, and have all ports for themselves.
    let (names, own_port) = match name {
        "discovery" => ("GOLEM_DISCOVERY_PUBLIC_NAMES", "9001"),
        _ => ("PORT_CHECKER_PUBLIC_NAMES", "9000"),
    };
    let is_elsewhere = host != "127.0.0.1";
    let port = if is_elsewhere { own_port } else { port };
    if is_elsewhere {
        command.env(names, format!("{host}:{port}"));
    }
    command.args(["start", "--host", host, "--port", port]);
    command.arg("--data-dir").arg(directory.join(name));
    Service::start(command, directory, name)
        .unwrap_or_else(|error| panic!("{binary} does not start: {error}"))
}

/// The same on the port that it had.
fn again(was: &Service, name: &str, place: &Place, directory: &Path) -> Service {
    let (host, port) = was.address().rsplit_once(':').unwrap();
    start(name, host, port, place, directory)
}
