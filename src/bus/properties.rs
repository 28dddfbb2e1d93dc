//! Round trips and damage for what processes send each other.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::protocol::{Epoch, EventKey, Lane, Life};

fn spots() -> impl Strategy<Value = Option<Spot>> {
    let lane = prop_oneof![Just(Lane::Normal), Just(Lane::High)];
    let spot = (lane, any::<u64>(), prop::option::of(any::<u64>()));
    prop::option::of(spot.prop_map(|(lane, place, life)| Spot {
        lane,
        place,
        life: life.map(Life),
    }))
}

fn payloads() -> impl Strategy<Value = Payload> {
    (any::<u64>(), ".{0,80}").prop_map(|(time_ms, json)| Payload {
        time_ms,
        json: json.into(),
    })
}

fn forwards() -> impl Strategy<Value = Forward> {
    let recipients = (".{1,32}", any::<prop::sample::Index>(), spots());
    (
        ".{1,32}",
        any::<u64>(),
        any::<[u8; 20]>(),
        prop::collection::vec(payloads(), 1..6),
        prop::collection::vec(recipients, 0..12),
    )
        .prop_map(
            |(sender, link_number, epoch, payloads, recipients)| Forward {
                sender,
                link_number,
                epoch: Epoch::from_bytes(epoch),
                recipients: recipients
                    .into_iter()
                    .map(|(user, index, spot)| Recipient {
                        user: user.into(),
                        payload: index.index(payloads.len()) as u32,
                        spot,
                    })
                    .collect(),
                payloads,
            },
        )
}

fn messages() -> impl Strategy<Value = GatewayMessage> {
    prop_oneof![
        4 => forwards().prop_map(GatewayMessage::Forward),
        1 => (".{1,32}", ".{1,32}", any::<u64>()).prop_map(|(user, device, number)| {
            GatewayMessage::Replace(Replace { user: user.into(), device, number })
        }),
        1 => (payloads(), prop::option::of(".{1,32}")).prop_map(|(payload, exclude)| {
            let exclude = exclude.map(Into::into);
            GatewayMessage::Announcement(Announcement { payload, exclude })
        }),
    ]
}

proptest! {
    #[test]
    fn a_message_survives_its_bytes(message in messages()) {
        let bytes = message.encode();
        if let GatewayMessage::Forward(forward) = &message {
            let payloads: usize = forward.payloads.iter().map(Payload::encoded_bytes).sum();
            let recipients: usize = forward.recipients.iter().map(Recipient::encoded_bytes).sum();
            prop_assert!(bytes.len() <= encoded_bytes(payloads, recipients));
        }
        prop_assert_eq!(GatewayMessage::decode(&bytes), Ok(message));
    }

    #[test]
    fn a_message_that_is_cut_off_or_goes_on_is_refused(
        message in messages(),
        place in any::<prop::sample::Index>(),
    ) {
        let bytes = message.encode();
        let cut = bytes.slice(..place.index(bytes.len()));
        prop_assert_eq!(GatewayMessage::decode(&cut), Err(InvalidForward));
        let longer: Bytes = [&bytes[..], &[0]].concat().into();
        prop_assert_eq!(GatewayMessage::decode(&longer), Err(InvalidForward));
    }

    #[test]
    fn a_damaged_message_is_refused_or_survives_again(
        message in messages(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = message.encode().to_vec();
        for (place, byte) in damages {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = GatewayMessage::decode(&bytes.into()) {
            prop_assert_eq!(GatewayMessage::decode(&read.encode()), Ok(read));
        }
    }

    #[test]
    fn a_broadcast_survives_its_bytes(
        creation_ms in 0..1_u64 << 44,
        numbers in any::<[u64; 3]>(),
        exclude in prop::option::of(".{1,32}"),
        text in ".{0,80}",
        damage in any::<(prop::sample::Index, u8)>(),
    ) {
        let [sequence, time_ms, expires_ms] = numbers;
        let broadcast = Broadcast {
            key: EventKey { creation_ms, sequence },
            time_ms,
            expires_ms,
            exclude: exclude.map(Into::into),
            json: serde_json::json!({ "data": text }).to_string().into(),
        };
        let bytes = broadcast.encode().unwrap();
        prop_assert_eq!(Broadcast::decode(&bytes), Ok(broadcast));
        let mut damaged = bytes.to_vec();
        damaged[damage.0.index(bytes.len())] = damage.1;
        if let Ok(read) = Broadcast::decode(&damaged) {
            prop_assert_eq!(Broadcast::decode(&read.encode().unwrap()), Ok(read));
        }
    }
}
