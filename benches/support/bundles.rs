//! Certificates of the size and shape that clusters hold, by the ten thousand: RSA-2048, without the cost of RSA.
//!
//! Key and signature are random octets. Nobody verifies the signatures of other Secrets, so a reader cannot tell; each certificate is one of its own.

use std::cell::Cell;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey,
};

const MODULUS: usize = 256;

/// The PEM bundle of a Secret: a leaf, the issuing CA of its namespace, the root.
pub(crate) fn mk_bundle(namespace: u64, number: u64) -> String {
    let issuing = format!("Issuing CA of team {namespace}");
    let root = "Example Corp Root CA";
    let name = format!("web-{number}.team-{namespace}.svc.example.org");
    mk_certificate(&name, &issuing, number * 3)
        + &mk_certificate(&issuing, root, number * 3 + 1)
        + &mk_certificate(root, root, number * 3 + 2)
}

/// A certificate in PEM; `number` makes its serial number, key and signature its own.
pub(crate) fn mk_certificate(subject: &str, issuer: &str, number: u64) -> String {
    let issuer = Issuer::new(mk_params(issuer, true, number), Noise::new(number ^ 1 << 40));
    mk_params(subject, subject.contains(" CA"), number).signed_by(&Noise::new(number), &issuer).unwrap().pem()
}

fn mk_params(common_name: &str, is_ca: bool, number: u64) -> CertificateParams {
    let dns_names = if is_ca { vec![] } else { vec![common_name.to_owned()] };
    let mut params = CertificateParams::new(dns_names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Example Corp");
    params.distinguished_name.push(DnType::CommonName, common_name);
    let mut serial = octets(number, 20);
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after =
        rcgen::date_time_ymd(2027 + (number % 3) as i32, 1 + (number % 12) as u8, 1 + (number % 28) as u8);
    params.use_authority_key_identifier_extension = true;
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    } else {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    }
    params
}

/// Octets of which no two seeds give the same; SplitMix64.
pub(crate) fn octets(seed: u64, count: usize) -> Vec<u8> {
    let state = Cell::new(seed.wrapping_mul(0xd134_2543_de82_ef95));
    let next = || {
        state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mixed = (state.get() ^ (state.get() >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    std::iter::repeat_with(next).flat_map(u64::to_le_bytes).take(count).collect()
}

/// A key that looks like RSA-2048 and signs with noise.
struct Noise {
    seed: u64,
    public: Vec<u8>,
}

impl Noise {
    fn new(seed: u64) -> Self {
        // RSAPublicKey of RFC 8017 section A.1.1: modulus and the exponent 65537.
        let mut public = vec![0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00];
        public.extend(octets(!seed, MODULUS));
        public[9] |= 0x80;
        public.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
        Self { seed, public }
    }
}

impl PublicKeyData for Noise {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl SigningKey for Noise {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(octets(self.seed.rotate_left(17), MODULUS))
    }
}
