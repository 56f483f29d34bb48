"""A client of Tinker's sampling service, through its own SDK; the same questions and answers as `ChatApi.write`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from expunge.deploy.chat_api import Answer
from expunge.deploy.parts import TINKER, require
from expunge.errors import ExpungeError


class TinkerApi:
    """One base model on Tinker, which may be asked from several threads. A context manager: leaving it ends the session.

    Args:
        model: name of a base model that Tinker serves.
        key: where not given, the SDK looks for TINKER_API_KEY and for the key that `tinker auth login` has stored.
        url: another address of the service; where not given, TINKER_BASE_URL or the SDK's own.
    """

    def __init__(self, model: str, *, key: str | None = None, url: str | None = None) -> None:
        self.model, self._key, self._url = model, key, url
        self._service: Any = None
        self._sampler: Any = None
        self._tokenizer: Any = None

    def __enter__(self) -> Self:
        """Open a session and load the model's tokenizer.

        Raises:
            ExpungeError: the SDK is missing, the key is missing or refused, the service cannot be reached or does not have
                the model, or the tokenizer cannot be had.
        """
        require(TINKER)
        import tinker

        try:
            self._service = tinker.ServiceClient(api_key=self._key, base_url=self._url)
            self._sampler = self._service.create_sampling_client(base_model=self.model).result()
        except Exception as error:
            self._close("errored")
            raise self._explained(error, "check the key and the model's name") from None
        try:
            self._tokenizer = self._sampler.get_tokenizer()
        except Exception as error:
            self._close("errored")
            raise self._explained(error, "its tokenizer comes from the Hub: check its name and HF_TOKEN") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._close("success" if kind is None else "errored")

    def write(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        schema: Mapping[str, Any] | None = None,
    ) -> Answer:
        """A sampled answer to a conversation, which is put into the model's own chat template here.

        Args:
            messages: `{"role": …, "content": …}` each.
            max_tokens: most tokens of the answer.
            temperature: 0 for the likeliest words, 1 for the model's own distribution.
            seed: of the sampling.
            schema: not used: Tinker holds no answer to a schema. Check it.

        Raises:
            ExpungeError: the service cannot be asked or refuses; the SDK has tried again for minutes by then.
        """
        from tinker import types

        tokens = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
        params = types.SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
        try:
            reply = self._sampler.sample(
                prompt=types.ModelInput.from_ints(tokens), num_samples=1, sampling_params=params
            ).result()
            sequence = reply.sequences[0]
        except Exception as error:
            raise self._explained(error, "run the command again: it continues") from None
        return Answer(
            text=self._tokenizer.decode(sequence.tokens, skip_special_tokens=True),
            prompt_tokens=len(tokens),
            tokens=len(sequence.tokens),
            complete=sequence.stop_reason == "stop",
        )

    def _close(self, status: str) -> None:
        service, self._service = self._service, None
        if service is not None:
            # A session ends by itself when nobody asks any more.
            with contextlib.suppress(Exception):
                service.close(status).result(timeout=5)

    def _explained(self, error: Exception, remedy: str) -> ExpungeError:
        words = str(error) or type(error).__name__
        if self._key:
            words = words.replace(self._key, "…")
        return ExpungeError(f"Tinker cannot be asked for {self.model} ({words[:300]})", remedy=remedy)
