//! Selections against a sort.

use super::devices;
use super::suite::selections as suite;

#[test]
fn selections_agree_with_a_sort_on_keys_that_are_often_equal() {
    suite::agree_with_a_sort(&devices(&[1, 3]));
}

#[test]
fn nan_is_the_last_choice_of_topk_and_none_of_the_others() {
    devices(&[2]).iter().for_each(suite::nan_is_the_last_choice);
}

#[test]
fn a_later_latent_of_an_earlier_token_wins_a_tie_of_the_whole_batch() {
    devices(&[2])
        .iter()
        .for_each(suite::the_earlier_token_wins_a_tie);
}
