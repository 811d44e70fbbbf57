"""`bssci monitor`: the whole network on one screen, as it changes.

`state` is what is known, `watching` learns it from the service. `controls` is where the person is,
`keys` what is pressed. `frame` and the views make lines of text of the two; `screen` puts them on
the terminal. `app` joins all that, `command` is what the command line calls.
"""
