//! Who certifies everything in tests.

use std::sync::Arc;

use hirsel_role::certificate::{Bundle, Bundles};
use hirsel_role::secret::Plain;
use rcgen::{CertifiedIssuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, SupportedProtocolVersion, WantsVerifier};
use tokio_rustls::TlsConnector;

/// Who certifies everything here.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for `names`, told apart by `version`.
    pub fn certify(&self, names: &[&str], version: u64) -> Bundle {
        let key = KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.serial_number = Some(version.into());
        let leaf = params.signed_by(&key, &self.0).unwrap();
        Bundle { version, chain: leaf.pem() + &self.0.pem(), key: Plain(key.serialize_pem()) }
    }

    /// A client that trusts this authority alone, and offers these protocols.
    pub fn client(&self, protocols: &[&str]) -> TlsConnector {
        self.client_with(rustls::crypto::ring::default_provider(), protocols)
    }

    /// The same, which offers what `provider` has in its order.
    pub fn client_with(&self, provider: CryptoProvider, protocols: &[&str]) -> TlsConnector {
        TlsConnector::from(Arc::new(self.config(provider, protocols)))
    }

    /// The same, for whatever it is to be used with.
    pub fn client_config(&self, protocols: &[&str]) -> ClientConfig {
        self.config(rustls::crypto::ring::default_provider(), protocols)
    }

    /// The same, which speaks this version of TLS alone.
    pub fn client_speaking(&self, version: &'static SupportedProtocolVersion, protocols: &[&str]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        self.finish(
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap(),
            protocols,
        )
    }

    /// The same, which shows this certificate with its key, both in PEM, when it is asked for one.
    pub fn client_showing(
        &self,
        version: &'static SupportedProtocolVersion,
        protocols: &[&str],
        (chain, key): (&str, &str),
    ) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let mut config = config.with_root_certificates(self.roots()).with_client_auth_cert(chain, key).unwrap();
        config.alpn_protocols = names(protocols);
        config
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    fn config(&self, provider: CryptoProvider, protocols: &[&str]) -> ClientConfig {
        let config = ClientConfig::builder_with_provider(Arc::new(provider));
        self.finish(config.with_safe_default_protocol_versions().unwrap(), protocols)
    }

    fn finish(&self, config: ConfigBuilder<ClientConfig, WantsVerifier>, protocols: &[&str]) -> ClientConfig {
        let mut config = config.with_root_certificates(self.roots()).with_no_client_auth();
        config.alpn_protocols = names(protocols);
        config
    }
}

fn names(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// Certificates by their names.
pub fn bundles(all: &[(&str, &Bundle)]) -> Arc<Bundles> {
    Arc::new(Bundles(all.iter().map(|(name, bundle)| (name.parse().unwrap(), (*bundle).clone())).collect()))
}
