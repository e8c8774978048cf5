"""`wsicl serve`: a page in the browser, and the service behind it.

`app` has the addresses, `session` what a person has marked, `engine` the network, `jobs` the queue
of requests for it, and `page/` what the browser runs.
"""
