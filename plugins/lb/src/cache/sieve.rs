//! Which of many things goes when there is no room: SIEVE (Zhang and others, "SIEVE is Simpler than LRU", NSDI '24).
//!
//! New things come in at the head of a queue and stay where they are; being used only marks them. A hand goes from the tail towards
//! the head: what it finds marked loses its mark and stays, the first thing that has none goes, and the next time the hand goes on from
//! there. So what was asked for once goes soon, a scan washes nothing away, and a hit writes one flag. Pure.

/// Things in a queue, each with a number that holds while it is there.
#[derive(Debug)]
pub struct Sieve<T> {
    places: Vec<Place<T>>,
    free: Vec<usize>,
    /// The newest one.
    head: Option<usize>,
    /// The oldest one.
    tail: Option<usize>,
    hand: Option<usize>,
    length: usize,
}

#[derive(Debug)]
struct Place<T> {
    thing: Option<T>,
    is_marked: bool,
    newer: Option<usize>,
    older: Option<usize>,
}

impl<T> Default for Sieve<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), head: None, tail: None, hand: None, length: 0 }
    }
}

impl<T> Sieve<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Puts one in, and says its number.
    pub fn insert(&mut self, thing: T) -> usize {
        let place = Place { thing: Some(thing), is_marked: false, newer: None, older: self.head };
        let number = match self.free.pop() {
            Some(number) => {
                self.places[number] = place;
                number
            }
            None => {
                self.places.push(place);
                self.places.len() - 1
            }
        };
        match self.head.replace(number) {
            Some(before) => self.places[before].newer = Some(number),
            None => self.tail = Some(number),
        }
        self.length += 1;
        number
    }

    /// The one with this number.
    pub fn get(&self, number: usize) -> Option<&T> {
        self.places.get(number)?.thing.as_ref()
    }

    /// It is used.
    pub fn mark(&mut self, number: usize) {
        if let Some(place) = self.places.get_mut(number) {
            place.is_marked = true;
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, number: usize) -> Option<T> {
        let place = self.places.get_mut(number)?;
        let thing = place.thing.take()?;
        let (newer, older) = (place.newer, place.older);
        if self.hand == Some(number) {
            self.hand = newer;
        }
        match newer {
            Some(newer) => self.places[newer].older = older,
            None => self.head = older,
        }
        match older {
            Some(older) => self.places[older].newer = newer,
            None => self.tail = newer,
        }
        self.free.push(number);
        self.length -= 1;
        if self.length == 0 {
            // Nothing is left of the largest number there ever was.
            *self = Self::default();
        }
        Some(thing)
    }

    /// Takes out the one that goes next.
    pub fn evict(&mut self) -> Option<T> {
        // Each mark is taken away once at most, so this ends.
        loop {
            let number = self.hand.or(self.tail)?;
            let place = &mut self.places[number];
            if !std::mem::take(&mut place.is_marked) {
                self.hand = place.newer;
                return self.remove(number);
            }
            self.hand = place.newer;
        }
    }

    /// The one that goes next, which stays.
    pub fn next_to_go(&mut self) -> Option<&T> {
        loop {
            let number = self.hand.or(self.tail)?;
            let place = &mut self.places[number];
            if !std::mem::take(&mut place.is_marked) {
                self.hand = Some(number);
                return self.get(number);
            }
            self.hand = place.newer;
        }
    }

    /// All numbers that are in use.
    pub fn numbers(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|number| self.places[*number].thing.is_some()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_used_since_the_hand_came_by_stays() {
        let mut sieve = Sieve::default();
        let numbers: Vec<usize> = (0..4).map(|thing| sieve.insert(thing)).collect();
        sieve.mark(numbers[0]);
        sieve.mark(numbers[2]);
        assert_eq!([sieve.evict(), sieve.evict()], [Some(1), Some(3)]);
        sieve.insert(4);
        // The hand begins anew at the tail, where the marks are gone.
        assert_eq!([sieve.evict(), sieve.evict(), sieve.evict(), sieve.evict()], [Some(0), Some(2), Some(4), None]);
        assert!(sieve.is_empty());
    }

    #[test]
    fn a_scan_washes_away_nothing_that_is_used() {
        let mut sieve = Sieve::default();
        let hot: Vec<usize> = (0..10).map(|thing| sieve.insert(thing)).collect();
        for scanned in 100..1_000 {
            hot.iter().for_each(|number| sieve.mark(*number));
            sieve.insert(scanned);
            if sieve.len() > 20 {
                sieve.evict();
            }
        }
        assert!(hot.iter().all(|number| sieve.get(*number).is_some_and(|thing| *thing < 10)));
    }

    /// The same as a list, the oldest one first, as the paper has it.
    #[derive(Default)]
    struct Plain {
        list: Vec<(u32, bool)>,
        hand: Option<u32>,
    }

    impl Plain {
        fn evict(&mut self) -> Option<u32> {
            if self.list.is_empty() {
                return None;
            }
            let mut at = self.hand.and_then(|hand| self.list.iter().position(|(it, _)| *it == hand)).unwrap_or(0);
            while self.list[at].1 {
                self.list[at].1 = false;
                at = (at + 1) % self.list.len();
            }
            let (gone, _) = self.list.remove(at);
            self.hand = self.list.get(at).map(|(it, _)| *it);
            Some(gone)
        }

        fn remove(&mut self, thing: u32) {
            let Some(at) = self.list.iter().position(|(it, _)| *it == thing) else { return };
            self.list.remove(at);
            if self.hand == Some(thing) {
                self.hand = self.list.get(at).map(|(it, _)| *it);
            }
        }
    }

    proptest! {
        #[test]
        fn it_does_as_a_plain_list_does(steps in prop::collection::vec((0..4u8, 0..40u32), 0..300)) {
            let (mut sieve, mut plain, mut numbers) = (Sieve::default(), Plain::default(), std::collections::BTreeMap::new());
            let mut next = 0;
            for (step, which) in steps {
                match step {
                    0 => {
                        numbers.insert(next, sieve.insert(next));
                        plain.list.push((next, false));
                        next += 1;
                    }
                    1 => if let Some(number) = numbers.get(&which) {
                        sieve.mark(*number);
                        plain.list.iter_mut().filter(|(it, _)| *it == which).for_each(|it| it.1 = true);
                    },
                    2 => if let Some(number) = numbers.remove(&which) {
                        prop_assert_eq!(sieve.remove(number), Some(which));
                        plain.remove(which);
                    },
                    _ => {
                        let next = sieve.next_to_go().copied();
                        let gone = sieve.evict();
                        prop_assert_eq!(next, gone);
                        prop_assert_eq!(gone, plain.evict());
                        gone.map(|gone| numbers.remove(&gone));
                    }
                }
                prop_assert_eq!(sieve.len(), plain.list.len());
                for (thing, number) in &numbers {
                    prop_assert_eq!(sieve.get(*number), Some(thing));
                }
            }
        }
    }
}
