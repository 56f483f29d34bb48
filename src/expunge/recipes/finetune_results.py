"""What a fine-tuning leaves beside the model, and what it would take."""

from __future__ import annotations

import math
from pathlib import Path

from expunge.files import write_json, written_atomically
from expunge.processes import count
from expunge.recipes.finetune_config import FinetuneConfig
from expunge.recipes.finetune_data import FinetuneData, Plan, Tokens, planned, tokenised
from expunge.runs import Run, check_place


def write_results(
    run: Run, trace: list[dict[str, float]], measured: dict[str, float], *, steps: int, plan: Plan, tokens: Tokens
) -> None:
    """`train_results.json`, `eval_results.json` where something was measured, and the plot of the losses."""
    from expunge.report.loss_plot import loss_plot

    seconds = run.manifest["seconds"]["train"]
    done = [place for micro in plan.micro_batches[: steps * plan.rounds * count()] for place in micro.forget]
    read = sum(len(tokens.learnt[place].tokens) for place in done)
    losses = [row["loss"] for row in trace if "loss" in row]
    write_json(
        run.path / "train_results.json",
        {
            "train_loss": sum(losses) / len(losses),
            "last_loss": losses[-1],
            "train_steps": steps,
            "train_examples": len(done),
            "train_tokens": read,
            "truncated_examples": tokens.truncated,
            # Of a run that was killed and continued: with the steps it took twice.
            "train_seconds": seconds,
            "train_tokens_per_second": round(read / max(seconds, 0.01), 1),
        },
    )
    if measured:
        perplexities = {f"{name.removesuffix('_loss')}_perplexity": math.exp(loss) for name, loss in measured.items()}
        write_json(run.path / "eval_results.json", measured | perplexities)
    names = {"loss": "training", "eval_retain_loss": "validation, retain", "eval_unlearn_loss": "validation, unlearn"}
    with written_atomically(run.path / "loss.svg") as stream:
        stream.write(loss_plot(trace, names, title=f"Loss of {run.path.name}, nats a token"))


def dry_run(config: FinetuneConfig, data: FinetuneData, output: Path) -> Run:
    """How many steps and tokens, and about how much time and memory; nothing is written."""
    from expunge.models import load_tokenizer, model_shape, prepare_cpu
    from expunge.training.cost import matmul_rate, training_cost
    from expunge.training.plan import MicroBatch

    check_place(output)
    prepare_cpu(config.threads)
    tokens = tokenised(data, load_tokenizer(config.model), config.max_seq_length)
    plan, shape = planned(config, data, tokens.learnt), model_shape(config.model)
    first = len(tokens.learnt)
    cost = training_cost(
        shape,
        # Both sides are held until the backward pass, so they count as one micro-batch.
        [MicroBatch((*micro.forget, *(first + each for each in micro.retain))) for micro in plan.micro_batches],
        [*tokens.learnt, *tokens.held],
        steps=plan.steps,
        rank=None if config.full else config.lora_rank,
        dtype=config.dtype,
        bits=config.bits,
        recomputes=config.gradient_checkpointing,
        flops_per_second=count() * matmul_rate(shape.hidden, dtype=config.dtype),
    )
    results = {
        "examples": len(data.examples),
        "steps": cost.steps,
        "tokens": cost.tokens,
        "truncated": tokens.truncated,
        "trained weights": cost.trained_weights,
        "about seconds": round(cost.seconds),
        "about memory, GB": round(cost.memory_bytes / 1e9, 1),
    }
    return Run(output, {"state": "dry run", "outputs": {}, "results": results})
