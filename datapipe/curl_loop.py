"""Runs libcurl's transfers on epoll: as many as file descriptors allow, at the cost of those that are active."""

import contextlib
import os
import select
import threading
import time
from typing import Any

import pycurl

EVENTS = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


class CurlLoop:
    """A libcurl multi handle driven by `socket_action`.

    Source: https://curl.se/libcurl/c/curl_multi_socket_action.html
    """

    def __init__(self, connections: int) -> None:
        self._multi = pycurl.CurlMulti()
        self._poll = select.epoll()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._waker, select.EPOLLIN)
        self._wake_lock = threading.Lock()
        self._is_closed = False
        self._timer_due: float | None = None
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)

    def add(self, handle: pycurl.Curl) -> None:
        """Starts the handle's transfer."""
        self._multi.add_handle(handle)

    def wait(self, timeout_s: float) -> list[tuple[pycurl.Curl, int]]:
        """Moves all transfers on for at most about `timeout_s`; the ended ones, each with libcurl's result code."""
        if self._timer_due is not None:
            timeout_s = min(timeout_s, max(0.0, self._timer_due - time.monotonic()))
        for descriptor, events in self._poll.poll(timeout_s):
            if descriptor == self._waker:
                os.eventfd_read(self._waker)
                continue
            self._multi.socket_action(descriptor, _as_curl_events(events))
        if self._timer_due is not None and self._timer_due <= time.monotonic():
            self._timer_due = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        return self._ended()

    def wake(self) -> None:
        """Ends a wait at once; may be called by any thread, also after `close`."""
        with self._wake_lock:
            if not self._is_closed:
                os.eventfd_write(self._waker, 1)

    def close(self) -> None:
        """Ends all transfers and connections."""
        self._multi.close()
        self._poll.close()
        with self._wake_lock:
            self._is_closed = True
            os.close(self._waker)

    def _ended(self) -> list[tuple[pycurl.Curl, int]]:
        ended: list[tuple[pycurl.Curl, int]] = []
        queued = 1
        while queued:
            queued, good, failed = self._multi.info_read()
            ended += [(handle, 0) for handle in good] + [(handle, code) for handle, code, _ in failed]
        for handle, _ in ended:
            self._multi.remove_handle(handle)
        return ended

    def _on_socket(self, event: int, descriptor: int, _multi: Any, _data: Any) -> None:
        # libcurl may close a socket before it tells, and the kernel then forgets it, or gives its number anew.
        if event == pycurl.POLL_REMOVE:
            with contextlib.suppress(OSError):
                self._poll.unregister(descriptor)
            return
        try:
            self._poll.modify(descriptor, EVENTS[event])
        except FileNotFoundError:
            self._poll.register(descriptor, EVENTS[event])

    def _on_timer(self, timeout_ms: int) -> None:
        self._timer_due = None if timeout_ms < 0 else time.monotonic() + timeout_ms / 1000


def _as_curl_events(events: int) -> int:
    result = 0
    if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
        result |= pycurl.CSELECT_IN
    if events & select.EPOLLOUT:
        result |= pycurl.CSELECT_OUT
    if events & select.EPOLLERR:
        result |= pycurl.CSELECT_ERR
    return result
