from __future__ import annotations

import asyncio
import threading

from fedkube_server.main import _soon


def test_what_many_ask_for_is_done_once_and_again_for_whoever_asks_later():
    calls = []

    async def ask_from_a_thread_and_from_here():
        ask = _soon(asyncio.get_running_loop(), lambda: calls.append(threading.get_ident()))
        thread = threading.Thread(target=lambda: [ask() for _ in range(100)])
        thread.start()
        thread.join()  # the loop does nothing meanwhile
        ask()
        await asyncio.sleep(0.01)
        assert len(calls) == 1
        ask()
        await asyncio.sleep(0.01)

    asyncio.run(ask_from_a_thread_and_from_here())
    assert calls == [threading.get_ident()] * 2


def test_who_asks_while_it_is_done_is_heard():
    calls = []

    async def ask_in_the_call():
        def call():
            calls.append(1)
            if len(calls) == 1:
                ask()

        ask = _soon(asyncio.get_running_loop(), call)
        ask()
        await asyncio.sleep(0.01)

    asyncio.run(ask_in_the_call())
    assert len(calls) == 2


def test_a_loop_that_is_closed_is_no_trouble():
    loop = asyncio.new_event_loop()
    loop.close()
    _soon(loop, lambda: None)()
