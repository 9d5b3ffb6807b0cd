// SPDX-License-Identifier: GPL-2.0 OR MIT

use proptest::prelude::*;

use super::*;

/// Made by OpenSSL: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`, the public half by `openssl pkey -pubout`,
/// and a signature of the payload by `openssl dgst -sha256 -sign`, which is what cosign makes with a key.
const SECRET: &str = include_str!("../tests/data/p256.pem");
const PUBLIC: &str = include_str!("../tests/data/p256.pub");
const PAYLOAD: &[u8] = include_bytes!("../tests/data/payload.json");
const SIGNATURE: &[u8] = include_bytes!("../tests/data/payload.sig");
const IMAGE: Digest = Digest([0xab; 32]);

fn repository() -> RegistryReference {
    match "registry.example/team/base".parse() {
        Ok(Reference::Registry(reference)) => reference,
        other => panic!("{other:?}"),
    }
}

fn ed25519() -> SigningKey {
    SigningKey::parse(&SecretKey::generate().unwrap()).unwrap()
}

#[test]
fn what_cosign_and_openssl_have_signed_is_verified() {
    let key = VerifyingKey::parse(PUBLIC).unwrap();
    assert_eq!(SigningKey::parse(SECRET).unwrap().public(), Ok(key));
    assert_eq!(key.to_pem().replace("\r\n", "\n"), PUBLIC);
    let signature = ImageSignature {
        payload: PAYLOAD.to_vec(),
        signature: SIGNATURE.to_vec(),
    };
    assert_eq!(signature.image(&[key]).unwrap(), Some(IMAGE));
    // The payload is the one that is made here.
    let own =
        ImageSignature::new(&repository(), &IMAGE, &SigningKey::parse(SECRET).unwrap()).unwrap();
    assert_eq!(own.payload, PAYLOAD);
}

#[test]
fn a_signature_is_its_keys_and_of_its_image_alone() {
    let keys = [SigningKey::parse(SECRET).unwrap(), ed25519()];
    let public: Vec<VerifyingKey> = keys.iter().map(|key| key.public().unwrap()).collect();
    for (place, key) in keys.iter().enumerate() {
        let signature = ImageSignature::new(&repository(), &IMAGE, key).unwrap();
        assert_eq!(signature.image(&public).unwrap(), Some(IMAGE));
        assert_eq!(
            signature.image(&public[place..=place]).unwrap(),
            Some(IMAGE)
        );
        assert_eq!(signature.image(&[public[1 - place]]).unwrap(), None);
        assert_eq!(signature.image(&[]).unwrap(), None);
        for length in 0..signature.signature.len() {
            let cut = ImageSignature {
                signature: signature.signature[..length].to_vec(),
                ..signature.clone()
            };
            assert_eq!(cut.image(&public).unwrap(), None);
        }
        for byte in 0..signature.payload.len() {
            let mut changed = signature.clone();
            changed.payload[byte] ^= 1;
            assert_eq!(changed.image(&public).unwrap(), None);
        }
    }
}

#[test]
fn what_is_signed_and_no_image_is_told_apart() {
    let key = ed25519();
    let public = [key.public().unwrap()];
    let text = |digest: &str, kind: &str| {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"x"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":{{"a":1}}}}"#
        )
    };
    let hex = IMAGE.to_string();
    for (payload, expected) in [
        (text(&format!("sha256:{hex}"), KIND), "Ok(Some"),
        (
            text(&format!("sha256:{hex}"), "atomic container signature"),
            "Err(Kind",
        ),
        (text(&format!("sha512:{hex}"), KIND), "Err(Digest"),
        (text(&hex, KIND), "Err(Digest"),
        (String::new(), "Err(Json"),
        ("[]".to_owned(), "Err(Json"),
        ("[".repeat(10_000), "Err(Json"),
        (" ".repeat(PAYLOAD_MAX as usize + 1), "Err(TooLong"),
    ] {
        let payload = payload.into_bytes();
        let signature = key.sign(&payload).unwrap();
        let found = ImageSignature { payload, signature }.image(&public);
        assert!(
            format!("{found:?}").starts_with(expected),
            "{expected}: {found:?}"
        );
    }
}

#[test]
fn a_manifest_keeps_what_others_have_signed() {
    let signature = ImageSignature::new(&repository(), &IMAGE, &ed25519()).unwrap();
    let mut manifest = SignatureManifest::default();
    manifest.add(&signature);
    let foreign = r#"{"digest":"sha256:00","mediaType":"x","annotations":{"who":"else"}}"#;
    manifest.layers.push(serde_json::from_str(foreign).unwrap());
    let (_, bytes) = manifest.to_bytes();
    let mut again = SignatureManifest::parse(&bytes).unwrap();
    assert_eq!(
        again.signatures(),
        [(sha256(&signature.payload), signature.signature.clone())]
    );
    again.add(&ImageSignature::new(&repository(), &IMAGE, &ed25519()).unwrap());
    let (config, bytes) = again.to_bytes();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(r#""who":"else""#) && text.contains(&sha256(&config).to_string()));
    assert_eq!(
        SignatureManifest::parse(text.as_bytes())
            .unwrap()
            .signatures()
            .len(),
        2
    );
    // What is said to be too long is as long as may be.
    let long = SignatureManifest::parse(&vec![b' '; MANIFEST_MAX + 1]).unwrap_err();
    assert_eq!(long.to_string(), "it has more than 1048576 bytes");
    let layer = format!(
        "{{\"digest\":\"sha256:{IMAGE}\",\"annotations\":{{\"{SIGNATURE_ANNOTATION}\":\"AA==\"}}}}"
    );
    let many = format!(
        "{{\"layers\":[{}]}}",
        vec![layer; SIGNATURES_MAX + 1].join(",")
    );
    assert_eq!(
        SignatureManifest::parse(many.as_bytes())
            .unwrap()
            .signatures()
            .len(),
        SIGNATURES_MAX
    );
    // One more is not looked at, and is there.
    let mut full = SignatureManifest::parse(many.as_bytes()).unwrap();
    assert!(!full.has(&signature));
    full.add(&signature);
    assert!(full.has(&signature) && full.signatures().len() == SIGNATURES_MAX);
}

#[test]
fn other_keys_are_refused() {
    for text in [
        "",
        "x",
        SECRET,
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ] {
        assert!(VerifyingKey::parse(text).is_err(), "{text}");
    }
    assert!(SigningKey::parse(PUBLIC).is_err());
    let key = ed25519().public().unwrap();
    assert_eq!(VerifyingKey::parse(&key.to_string()), Ok(key));
    assert_eq!(VerifyingKey::parse(&key.to_pem()), Ok(key));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = SignatureManifest::parse(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        let _ = (VerifyingKey::parse(&text), SigningKey::parse(&text));
    }
}
