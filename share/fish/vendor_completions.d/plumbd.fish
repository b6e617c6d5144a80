# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_plumbd_global_optspecs
    string join \n h/help V/version
end

function __fish_plumbd_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_plumbd_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_plumbd_using_subcommand
    set -l cmd (__fish_plumbd_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c plumbd -n "__fish_plumbd_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c plumbd -n "__fish_plumbd_needs_command" -s V -l version -d 'Print version'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "run" -d 'Supervise, in the foreground unless --daemon'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "check" -d 'Print every problem of a configuration'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "plan" -d 'Say what a reload would do, child by child, and why; changes nothing'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "reload" -d 'Have the daemon read its configuration again, and report what changed, or every problem'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "status" -d 'Show the children and the links'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "start" -d 'Start children, and wait until they are up; clears a start limit'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "stop" -d 'Stop children, and wait until they are down'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "restart" -d 'Stop children and start them again, and wait until they are up'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "shutdown" -d 'Drain and end the daemon, and wait until it is gone'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "reopen" -d 'Have children reopen their files, for an external log rotator'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "example" -d 'List the ready configurations, or print one'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "man" -d 'Print the manual page plumbd(1)'
complete -c plumbd -n "__fish_plumbd_needs_command" -f -a "plugin" -d 'Run a built-in plugin; `plumbd run` does this'
complete -c plumbd -n "__fish_plumbd_using_subcommand run" -s c -l config -d 'The configuration [default: ./plumbd.toml, /etc/plumbd/plumbd.toml, or built in]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand run" -l pid-file -d 'Write the process id to this file, and hold a lock on it' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand run" -l daemon -d 'Go to the background, and come back only once every child is ready, or with the reason why not'
complete -c plumbd -n "__fish_plumbd_using_subcommand run" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand check" -s c -l config -d 'The configuration [default: ./plumbd.toml, /etc/plumbd/plumbd.toml, or built in]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand check" -l effective -d 'Print the configuration with every default filled in'
complete -c plumbd -n "__fish_plumbd_using_subcommand check" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand plan" -s c -l config -d 'The configuration [default: ./plumbd.toml, /etc/plumbd/plumbd.toml, or built in]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand plan" -l control -d 'The daemon\'s control socket [default: $PLUMBD_CONTROL, or what the configuration says]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand plan" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand reload" -s c -l config -d 'The configuration [default: ./plumbd.toml, /etc/plumbd/plumbd.toml, or built in]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand reload" -l control -d 'The daemon\'s control socket [default: $PLUMBD_CONTROL, or what the configuration says]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand reload" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand status" -s c -l config -d 'The configuration [default: ./plumbd.toml, /etc/plumbd/plumbd.toml, or built in]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand status" -l control -d 'The daemon\'s control socket [default: $PLUMBD_CONTROL, or what the configuration says]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand status" -l json -d 'As JSON, for programs'
complete -c plumbd -n "__fish_plumbd_using_subcommand status" -l watch -d 'Again each second, until Ctrl-C'
complete -c plumbd -n "__fish_plumbd_using_subcommand status" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand start" -s c -l config -d 'The configuration [default: ./plumbd.toml, /etc/plumbd/plumbd.toml, or built in]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand start" -l control -d 'The daemon\'s control socket [default: $PLUMBD_CONTROL, or what the configuration says]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand start" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand stop" -s c -l config -d 'The configuration [default: ./plumbd.toml, /etc/plumbd/plumbd.toml, or built in]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand stop" -l control -d 'The daemon\'s control socket [default: $PLUMBD_CONTROL, or what the configuration says]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand stop" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand restart" -s c -l config -d 'The configuration [default: ./plumbd.toml, /etc/plumbd/plumbd.toml, or built in]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand restart" -l control -d 'The daemon\'s control socket [default: $PLUMBD_CONTROL, or what the configuration says]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand restart" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand shutdown" -s c -l config -d 'The configuration [default: ./plumbd.toml, /etc/plumbd/plumbd.toml, or built in]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand shutdown" -l control -d 'The daemon\'s control socket [default: $PLUMBD_CONTROL, or what the configuration says]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand shutdown" -l fast -d 'Do not drain'
complete -c plumbd -n "__fish_plumbd_using_subcommand shutdown" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand reopen" -s c -l config -d 'The configuration [default: ./plumbd.toml, /etc/plumbd/plumbd.toml, or built in]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand reopen" -l control -d 'The daemon\'s control socket [default: $PLUMBD_CONTROL, or what the configuration says]' -r -F
complete -c plumbd -n "__fish_plumbd_using_subcommand reopen" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand example" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand completions" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand man" -s h -l help -d 'Print help'
complete -c plumbd -n "__fish_plumbd_using_subcommand plugin" -s h -l help -d 'Print help'
