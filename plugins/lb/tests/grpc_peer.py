"""A gRPC program and a client of it, by the library that people use.

grpc_peer.py serve HOST PORT     answers calls; says "ready PORT" once it does
grpc_peer.py call HOST PORT      makes calls of every kind; says what came back, a line each
grpc_peer.py refused HOST PORT   makes one call; says its status and message
grpc_peer.py load HOST PORT      calls until there is no more input; says how many calls were answered, and what became of the others
"""

import sys
import threading
import time
from concurrent import futures

import grpc


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    left = context.time_remaining()
    context.set_trailing_metadata((("x-behind", "here"), ("x-bytes-bin", b"\0\1\2")))
    return b"%s|%s|%s" % (request, metadata.get("x-mine", "-").encode(), b"-" if left is None or left > 1e6 else b"%d" % round(left / 60))


def fails(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not 100 % so, \u00fc")


def counts(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def adds(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def echoes(requests, context):
    for request in requests:
        yield request


def waits(request, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    context.send_initial_metadata(())
    sys.stdout.write("waiting\n")
    sys.stdout.flush()
    ended.wait(30)
    sys.stdout.write("given up\n")
    sys.stdout.flush()
    return b""


def serve(host, port):
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fails": grpc.unary_unary_rpc_method_handler(fails),
        "Counts": grpc.unary_stream_rpc_method_handler(counts),
        "Adds": grpc.stream_unary_rpc_method_handler(adds),
        "Echoes": grpc.stream_stream_rpc_method_handler(echoes),
        "Waits": grpc.unary_unary_rpc_method_handler(waits),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    # Field 1 of the answer is 1: it serves.
    health = {"Check": grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")}
    services = (("shop.Shop", handlers), ("grpc.health.v1.Health", health))
    server.add_generic_rpc_handlers(tuple(grpc.method_handlers_generic_handler(*service) for service in services))
    port = server.add_insecure_port("%s:%s" % (host, port))
    server.start()
    print("ready", port, flush=True)
    server.wait_for_termination()


def status(call):
    try:
        call()
        return "OK"
    except grpc.RpcError as error:
        return "%s %s" % (error.code().name, error.details())


def call(host, port):
    with grpc.insecure_channel("%s:%s" % (host, port)) as channel:
        one = channel.unary_unary("/shop.Shop/Unary")
        answer, made = one.with_call(b"hello", timeout=3600, metadata=(("x-mine", "mine"),))
        behind = dict(made.trailing_metadata())
        print("unary", answer.decode(), behind["x-behind"], behind["x-bytes-bin"].hex(), made.code().name)
        print("fails", status(lambda: channel.unary_unary("/shop.Shop/Fails")(b"", timeout=7)))
        print("counts", sum(int(piece) for piece in channel.unary_stream("/shop.Shop/Counts")(b"5000", timeout=20)))
        pieces = (b"x" * 1000 for _ in range(3000))
        print("adds", channel.stream_unary("/shop.Shop/Adds")(pieces, timeout=20).decode())
        turn = threading.Semaphore(1)

        def asks():
            for number in range(200):
                # Not before the answer to the one before has come.
                turn.acquire()
                yield b"%d" % number

        got = []
        for piece in channel.stream_stream("/shop.Shop/Echoes")(asks(), timeout=20):
            got.append(piece)
            turn.release()
        print("echoes", len(got), got[-1].decode())
        begun = time.monotonic()
        print("late", status(lambda: channel.unary_unary("/shop.Shop/Waits")(b"", timeout=2)).split()[0])
        assert time.monotonic() - begun < 20
        # As a stream, of which the beginning is seen before the answer has come.
        waiting = channel.unary_stream("/shop.Shop/Waits")(b"", timeout=20)
        waiting.initial_metadata()
        waiting.cancel()
        print("unknown", status(lambda: channel.unary_unary("/shop.Shop/Missing")(b"", timeout=7)).split()[0])
        large = one(b"y" * 3_000_000, timeout=3600)
        print("large", len(large))
        many = [one.future(b"%d" % number, timeout=3600) for number in range(500)]
        print("many", sum(1 for number, made in enumerate(many) if made.result() == b"%d|-|60" % number))


def load(host, port):
    good, failed, ended = [0], {}, threading.Event()

    def calls():
        with grpc.insecure_channel("%s:%s" % (host, port), options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
            one = channel.unary_unary("/shop.Shop/Unary")
            while not ended.is_set():
                said = status(lambda: one(b"x", timeout=30))
                if said == "OK":
                    good[0] += 1
                else:
                    failed[said] = failed.get(said, 0) + 1
                time.sleep(0.02)

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    print("calls", flush=True)
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    print(good[0], failed, flush=True)


def refused(host, port):
    with grpc.insecure_channel("%s:%s" % (host, port)) as channel:
        print(status(lambda: channel.unary_unary("/shop.Shop/Unary")(b"", timeout=10)))


if __name__ == "__main__":
    {"serve": serve, "call": call, "refused": refused, "load": load}[sys.argv[1]](*sys.argv[2:])
