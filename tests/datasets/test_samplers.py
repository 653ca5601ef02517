from datasets.samplers import TrainBatches


def batches(epoch=0, num_samples=11, batch_size=4, seed=3):
    sampler = TrainBatches(num_samples=num_samples, batch_size=batch_size, seed=seed)
    sampler.set_position(epoch, 0)
    return list(sampler)


def test_an_epoch_shows_no_sample_twice_and_leaves_out_the_incomplete_batch():
    keys = [key.index for batch in batches() for key in batch]
    assert len(keys) == 8 == len(set(keys))


def test_epochs_and_seeds_differ_and_are_repeatable():
    assert batches() == batches()
    assert batches() != batches(epoch=1)
    assert batches() != batches(seed=4)


def test_a_data_set_smaller_than_a_batch_is_repeated():
    (batch,) = batches(num_samples=3, batch_size=7)
    counts = [sum(key.index == index for key in batch) for index in range(3)]
    assert sum(counts) == 7 and max(counts) - min(counts) <= 1
