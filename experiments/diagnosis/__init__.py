"""What is wrong with networks that do not train: a zoo of generated networks, each trained, treated and diagnosed.

Paper:    Cao et al. 2022 (DeepDiagnosis), Zhang et al. 2021 (AutoTrainer), Amazon SageMaker Debugger's built-in rules
Figure:   detection and false alarms of their rules, and of this project's verdict, on the same networks
Command:  python -m experiments.diagnosis
Minutes:  24 on two cores, a process each (smoke: 2; paper: 950 networks of 4 s, 440 new labels of 6 s, 100 treatments
          of 10 s, about 2 hours)
Expected: the targets are that at least 95 % of the sick networks of the held-out families are found and at most 2 % of
          the healthy ones are called sick. They are missed so far; docs/results/diagnosis.md says by how much.

A network is sick by its outcome, not by its design: over three orders of the same batches its gain is below 90 % of its
twin's. Gain is 1 - loss after training over the loss of a network that knows nothing. The twin is the best of a fixed
set of treatments of the same network, none among them: weights rescaled, weights drawn anew, Adam, a hundredth, a
tenth, ten and a hundred times the rate. A healthy network is its own twin. A network that no treatment helps is sick,
because every task is one that a sound network solves. The verdict sees the start and 20 steps, at several rates.

Labels are committed (`labels.csv`, made by `python -m experiments.diagnosis.make_labels`). A run trains three networks,
drawn by chance, to see that their labels come out the same, and trains those that have none.

Families are split: nothing was tuned on the held-out ones. Faults that were planted have known kinds and places. Of the
sick networks that some treatment helps, `gf.treat` is given a few; beside its gain stands that of a remedy drawn by
chance.

Beside the zoo stand ten public programs, rebuilt from the questions that were asked about them, and their repaired
forms (`public_programs`). The repaired form is the twin of both.
"""
