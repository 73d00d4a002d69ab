"""Proves of the tests themselves: their fork server outlives a client that a kill has taken."""

import multiprocessing.forkserver
import socket
import time

from tests.process_case import server


def test_client_that_connects_and_dies__leaves_the_server_and_its_processes_alone() -> None:
    running = server().Process(target=time.sleep, args=(30,))
    running.start()
    address = vars(multiprocessing.forkserver._forkserver)["_forkserver_address"]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
    started = server().Process(target=time.sleep, args=(0,))
    started.start()
    started.join(30)
    assert started.exitcode == 0
    assert running.is_alive()
    running.kill()
    running.join()
    assert running.exitcode == -9
