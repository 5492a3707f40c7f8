//! Private keys: reading every form that kubeadm and OpenSSL write, making new ones, signing.

use p256::ecdsa::signature::{SignatureEncoding, Signer};
use p256::pkcs8::{DecodePrivateKey, EncodePublicKey};
use rsa::pkcs1::{DecodeRsaPrivateKey, EncodeRsaPrivateKey, LineEnding};
use rsa::rand_core::CryptoRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{IssueError, der};
use crate::cert::{KeyAlgorithm, pem};

/// Kinds of keys for new leaves, by kubeadm's names (`encryptionAlgorithm`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeyType {
    /// RSA with 2048 bits, as `kubeadm certs renew` makes them whatever was there before.
    #[default]
    #[serde(rename = "RSA-2048")]
    Rsa2048,
    /// RSA with 3072 bits.
    #[serde(rename = "RSA-3072")]
    Rsa3072,
    /// RSA with 4096 bits.
    #[serde(rename = "RSA-4096")]
    Rsa4096,
    /// ECDSA on P-256.
    #[serde(rename = "ECDSA-P256")]
    EcdsaP256,
    /// ECDSA on P-384.
    #[serde(rename = "ECDSA-P384")]
    EcdsaP384,
}

impl KeyType {
    /// Its name in the configuration and in plans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsa2048 => "RSA-2048",
            Self::Rsa3072 => "RSA-3072",
            Self::Rsa4096 => "RSA-4096",
            Self::EcdsaP256 => "ECDSA-P256",
            Self::EcdsaP384 => "ECDSA-P384",
        }
    }

    /// The one that is most like an existing key; RSA-2048 for what cannot be made.
    pub fn like(algorithm: KeyAlgorithm) -> Self {
        match algorithm {
            KeyAlgorithm::Rsa(bits) if bits > 3072 => Self::Rsa4096,
            KeyAlgorithm::Rsa(bits) if bits > 2048 => Self::Rsa3072,
            KeyAlgorithm::P256 => Self::EcdsaP256,
            KeyAlgorithm::P384 | KeyAlgorithm::P521 => Self::EcdsaP384,
            KeyAlgorithm::Rsa(_) | KeyAlgorithm::Ed25519 | KeyAlgorithm::Other => Self::Rsa2048,
        }
    }
}

/// A private key; wiped when dropped, shown by nothing.
pub enum PrivateKey {
    /// RSA.
    Rsa(Box<rsa::PrivateKey>),
    /// ECDSA on P-256.
    P256(p256::SecretKey),
    /// ECDSA on P-384.
    P384(p384::SecretKey),
}

/// `sha256WithRSAEncryption`, `ecdsa-with-SHA256`, `ecdsa-with-SHA384`: content octets (RFC 4055, RFC 5758).
const SHA256_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const ECDSA_WITH_SHA256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_WITH_SHA384: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const NULL: [u8; 2] = [5, 0];

impl PrivateKey {
    /// Reads the first private key of a PEM text: PKCS#1, SEC1 or PKCS#8.
    ///
    /// # Errors
    /// There is none, or it is of another algorithm.
    pub fn read(text: &[u8]) -> Result<Self, IssueError> {
        let first = |label| pem::first(text, label).map(Zeroizing::new);
        let key = if let Some(der) = first("RSA PRIVATE KEY") {
            rsa::PrivateKey::from_pkcs1_der(&der).ok().map(|key| Self::Rsa(Box::new(key)))
        } else if let Some(der) = first("EC PRIVATE KEY") {
            let p256 = p256::SecretKey::from_sec1_der(&der).ok().map(Self::P256);
            p256.or_else(|| p384::SecretKey::from_sec1_der(&der).ok().map(Self::P384))
        } else if let Some(der) = first("PRIVATE KEY") {
            let rsa = rsa::PrivateKey::from_pkcs8_der(&der).ok().map(|key| Self::Rsa(Box::new(key)));
            let p256 = || p256::SecretKey::from_pkcs8_der(&der).ok().map(Self::P256);
            rsa.or_else(p256).or_else(|| p384::SecretKey::from_pkcs8_der(&der).ok().map(Self::P384))
        } else {
            None
        };
        key.ok_or(IssueError::UnreadableKey)
    }

    /// A fresh one.
    pub(super) fn generate(kind: KeyType, rng: &mut impl CryptoRng) -> Result<Self, IssueError> {
        use p256::elliptic_curve::Generate;
        let rsa = |rng, bits| rsa::PrivateKey::new(rng, bits).map(|key| Self::Rsa(Box::new(key)));
        match kind {
            KeyType::Rsa2048 => rsa(rng, 2048).map_err(|_| IssueError::Crypto),
            KeyType::Rsa3072 => rsa(rng, 3072).map_err(|_| IssueError::Crypto),
            KeyType::Rsa4096 => rsa(rng, 4096).map_err(|_| IssueError::Crypto),
            KeyType::EcdsaP256 => Ok(Self::P256(p256::SecretKey::generate_from_rng(rng))),
            KeyType::EcdsaP384 => Ok(Self::P384(p384::SecretKey::generate_from_rng(rng))),
        }
    }

    /// The SubjectPublicKeyInfo of its public half, DER.
    pub(super) fn public_key_info(&self) -> Result<Vec<u8>, IssueError> {
        let document = match self {
            Self::Rsa(key) => key.to_public_key().to_public_key_der(),
            Self::P256(key) => key.public_key().to_public_key_der(),
            Self::P384(key) => key.public_key().to_public_key_der(),
        };
        document.map(|document| document.as_bytes().to_vec()).map_err(|_| IssueError::Crypto)
    }

    /// The AlgorithmIdentifier of its signatures, DER.
    pub(super) fn signature_algorithm(&self) -> Vec<u8> {
        match self {
            Self::Rsa(_) => der::sequence(&[der::object_identifier(&SHA256_WITH_RSA), NULL.to_vec()]),
            Self::P256(_) => der::sequence(&[der::object_identifier(&ECDSA_WITH_SHA256)]),
            Self::P384(_) => der::sequence(&[der::object_identifier(&ECDSA_WITH_SHA384)]),
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IssueError> {
        let signature = match self {
            Self::Rsa(key) => {
                let signer = rsa::pkcs1v15::SigningKey::<rsa::sha2::Sha256>::new(key.as_ref().clone());
                signer.try_sign(message).map(|signature| signature.to_vec())
            }
            Self::P256(key) => {
                let signer = p256::ecdsa::SigningKey::from(key);
                signer.try_sign(message).map(|signature: p256::ecdsa::DerSignature| signature.to_vec())
            }
            Self::P384(key) => {
                let signer = p384::ecdsa::SigningKey::from(key);
                signer.try_sign(message).map(|signature: p384::ecdsa::DerSignature| signature.to_vec())
            }
        };
        signature.map_err(|_| IssueError::Crypto)
    }

    /// PEM as kubeadm writes it: PKCS#1 for RSA, SEC1 for elliptic curves.
    pub(super) fn to_pem(&self) -> Result<Zeroizing<String>, IssueError> {
        match self {
            Self::Rsa(key) => key.to_pkcs1_pem(LineEnding::LF).map_err(|_| IssueError::Crypto),
            Self::P256(key) => key.to_sec1_pem(LineEnding::LF).map_err(|_| IssueError::Crypto),
            Self::P384(key) => key.to_sec1_pem(LineEnding::LF).map_err(|_| IssueError::Crypto),
        }
    }
}
