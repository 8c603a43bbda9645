"""Several processes that train and measure as one, a device each, by torch.distributed.

Neither DistributedDataParallel nor Lightning Fabric: they average the gradients of losses that each process has of its
own images, through a module's `forward`. The losses here are of a whole batch (its centroids, its pairs of views, its
neighbourhoods) and of features, so that a method would have to know of processes. Instead all processes have the same
batch, and `Classifier.features` computes a part of its rows in each and gathers the others' (`rows`): every method,
also one of a user's own, has the loss of the whole batch. What DistributedDataParallel gains by averaging gradients
while others are still computed is a small part of a step here, whose adversary has several passes for the one whose
gradients are averaged. Starting processes is torchrun's or SLURM's; `launch` does it on one machine.
"""
