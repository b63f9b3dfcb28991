#!/usr/bin/env python3
"""Plays a cloud's metadata service on 127.0.0.1, badly first, then well, then with a notice.

    metadata.py CLOUD PORT_FILE LOG [TROUBLE...]

Each TROUBLE spoils one answer to the question for notices: hang, garbage, empty, 401, 500, big, none. After the last
one, every answer is the notice; without any trouble but `none`, the first answers are good ones. A
trouble may be preceded by a number: 3*none. LOG gets a line per question.
"""
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

cloud, port_file, log_path, *words = sys.argv[1:]
troubles = []
for word in words:
    count, _, kind = word.rpartition('*')
    troubles += [kind] * int(count or 1)
lock = threading.Lock()
tokens = 0
never = threading.Event()
log = open(log_path, 'a', buffering=1)

NONE = {'aws': (404, 'not found'), 'gcp': (200, 'FALSE'),
        'azure': (200, json.dumps({'DocumentIncarnation': 1, 'Events': [
            {'EventType': 'Preempt', 'Resources': ['another-vm'], 'NotBefore': 'soon'},
            {'EventType': 'Reboot', 'Resources': ['this-vm'], 'NotBefore': 'soon'}]}))}
NOTICE = {'aws': (200, json.dumps({'action': 'terminate', 'time': '2030-01-02T03:04:05Z'})), 'gcp': (200, 'TRUE\n'),
          'azure': (200, json.dumps({'DocumentIncarnation': 2, 'Events': [
              {'EventId': 'x', 'EventType': 'Preempt', 'ResourceType': 'VirtualMachine', 'Resources': ['other', 'THIS-vm'],
               'EventStatus': 'Scheduled', 'NotBefore': 'Mon, 19 Sep 2016 18:29:47 GMT'}]}))}
PATHS = {'aws': '/latest/meta-data/spot/instance-action', 'gcp': '/computeMetadata/v1/instance/preempted',
         'azure': '/metadata/scheduledevents?api-version=2020-07-01'}


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, text, chunks=1):
        self.send_response(status)
        self.send_header('ETag', '4a5b6c7d')
        self.send_header('Content-Length', str(len(text) * chunks))
        self.end_headers()
        for _ in range(chunks):
            self.wfile.write(text.encode())

    def allowed(self):
        if cloud == 'aws':
            return self.headers.get('X-aws-ec2-metadata-token') == f'token-{tokens}'
        if cloud == 'gcp':
            return self.headers.get('Metadata-Flavor') == 'Google'
        return self.headers.get('Metadata') == 'true'

    def notices(self):
        with lock:
            trouble = troubles.pop(0) if troubles else 'notice'
            log.write(f'{trouble} {self.path}\n')
        if trouble == 'hang':
            never.wait(30)
        elif trouble == 'garbage':
            self.answer(200, '{"action": "terminate", \x01')
        elif trouble == 'empty':
            self.answer(200, '')
        elif trouble == 'big':
            self.answer(200, ' ' * 65536, 64)
        elif trouble == 'none':
            self.answer(*NONE[cloud])
        elif trouble == 'notice':
            self.answer(*NOTICE[cloud])
        else:
            self.answer(int(trouble), 'trouble')

    def do_GET(self):
        if cloud == 'azure' and self.path.startswith('/metadata/instance/compute/name?'):
            self.answer(200, 'this-vm') if self.allowed() else self.answer(400, 'no header')
        elif self.path.split('?')[0] != PATHS[cloud].split('?')[0]:
            log.write(f'strange {self.path}\n')
            self.answer(404, 'no such thing')
        elif not self.allowed():
            log.write(f'refused {self.path}\n')
            self.answer(401, 'header')
        else:
            self.notices()

    def do_PUT(self):
        global tokens
        if cloud != 'aws' or self.path != '/latest/api/token' or not self.headers.get('X-aws-ec2-metadata-token-ttl-seconds'):
            log.write(f'strange PUT {self.path}\n')
            self.answer(400, 'no')
            return
        with lock:
            tokens += 1
            log.write(f'token {tokens}\n')
        self.answer(200, f'token-{tokens}')

    def do_POST(self):
        log.write(f'POST {self.path}\n')
        self.answer(200, '')

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def handle_error(self, request, client_address):
        pass  # a client that hung up


server = Server(('127.0.0.1', 0), Handler)
with open(port_file + '.tmp', 'w') as file:
    file.write(str(server.server_port))
os.rename(port_file + '.tmp', port_file)
server.serve_forever()
