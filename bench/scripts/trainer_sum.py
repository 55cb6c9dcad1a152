"""One all-reduce after the imports of a Trainer script: `trainer_sum.py FILE`."""

import sys

from first_sum import first_sum
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

USED = (AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed)

first_sum(*sys.argv[1:])
