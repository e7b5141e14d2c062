# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_kura_global_optspecs
    string join \n config= color= no-input q/quiet v/verbose data-dir= tmp-dir= tmp-dir-max-bytes= cas-capacity-bytes= durability= inline-max-bytes= max-keyvalue-bytes= multipart-upload-ttl-ms= metadata-store-read-cache-bytes= metadata-store-max-open-files= bind= port= internal-port= node-url= tenant-id= region= drain-completion-timeout-ms= peer= discover= bootstrap-max-concurrent-peers= bootstrap-concurrency= tokio-worker-threads= log-level= log-format= h/help V/version
end

function __fish_kura_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_kura_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_kura_using_subcommand
    set -l cmd (__fish_kura_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c kura -n "__fish_kura_needs_command" -l config -d 'A TOML file with settings [variable: KURA_CONFIG]' -r -F
complete -c kura -n "__fish_kura_needs_command" -l color -d 'Colour the output' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c kura -n "__fish_kura_needs_command" -l data-dir -d 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_needs_command" -l tmp-dir -d 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_needs_command" -l tmp-dir-max-bytes -d 'The staging budget [default: 8GiB]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l cas-capacity-bytes -d 'Upper bound on stored artifacts [default: what the volume allows]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l durability -d 'What an acknowledged write survives: power loss, or the death of the process [default: power]' -r -f -a "power\t''
process\t''"
complete -c kura -n "__fish_kura_needs_command" -l inline-max-bytes -d 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l max-keyvalue-bytes -d 'Largest key-value entry and inline body from a peer [default: 1MiB]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l multipart-upload-ttl-ms -d 'A multipart upload without progress for this long is dropped [default: 15m]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l metadata-store-read-cache-bytes -d 'The index\'s block cache [default: memory / 32, from 16 MiB to 128 MiB]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l metadata-store-max-open-files -d 'The index\'s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l bind -d 'The address both listeners bind to [default: 127.0.0.1]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l port -d 'The port for build tools, 0 for any free one [default: 4000]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l internal-port -d 'The port for peers, 0 for any free one [default: 7443]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l node-url -d 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l tenant-id -d 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l region -d 'The region this node says it is in [default: local]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l drain-completion-timeout-ms -d 'How long a drain may take [default: 4m]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l peer -d 'A peer\'s base URL, its own allowed; repeat the flag, or separate by commas [default: none]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l discover -d 'A DNS name whose addresses are peers [default: none]' -r -f -a "(__fish_print_hostnames)"
complete -c kura -n "__fish_kura_needs_command" -l bootstrap-max-concurrent-peers -d 'Peers caught up from at the same time [default: 8]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l bootstrap-concurrency -d 'Artifacts fetched from one peer at the same time [default: 16]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l tokio-worker-threads -d 'Threads of the async runtime [default: CPUs, from 2 to 16]' -r -f
complete -c kura -n "__fish_kura_needs_command" -l log-level -d 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c kura -n "__fish_kura_needs_command" -l log-format -d 'How log lines look [default: text]' -r -f -a "text\t''
json\t''"
complete -c kura -n "__fish_kura_needs_command" -l no-input -d 'Never ask; what would need an answer is refused'
complete -c kura -n "__fish_kura_needs_command" -s q -l quiet -d 'Say less on stderr'
complete -c kura -n "__fish_kura_needs_command" -s v -l verbose -d 'Say more on stderr; twice for everything'
complete -c kura -n "__fish_kura_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kura -n "__fish_kura_needs_command" -s V -l version -d 'Print version'
complete -c kura -n "__fish_kura_needs_command" -f -a "serve" -d 'Serve artifacts to build tools and keep peers in sync'
complete -c kura -n "__fish_kura_needs_command" -f -a "bootstrap" -d 'Catch a data dir up from peers'
complete -c kura -n "__fish_kura_needs_command" -f -a "reclaim-staging" -d 'Free what was never committed; never touches data'
complete -c kura -n "__fish_kura_needs_command" -f -a "doctor" -d 'Find out what is wrong with a node, without changing anything'
complete -c kura -n "__fish_kura_needs_command" -f -a "completions" -d 'Print a completion script for a shell'
complete -c kura -n "__fish_kura_using_subcommand serve" -l config -d 'A TOML file with settings [variable: KURA_CONFIG]' -r -F
complete -c kura -n "__fish_kura_using_subcommand serve" -l color -d 'Colour the output' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c kura -n "__fish_kura_using_subcommand serve" -l data-dir -d 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand serve" -l tmp-dir -d 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand serve" -l tmp-dir-max-bytes -d 'The staging budget [default: 8GiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l cas-capacity-bytes -d 'Upper bound on stored artifacts [default: what the volume allows]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l durability -d 'What an acknowledged write survives: power loss, or the death of the process [default: power]' -r -f -a "power\t''
process\t''"
complete -c kura -n "__fish_kura_using_subcommand serve" -l inline-max-bytes -d 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l max-keyvalue-bytes -d 'Largest key-value entry and inline body from a peer [default: 1MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l multipart-upload-ttl-ms -d 'A multipart upload without progress for this long is dropped [default: 15m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l metadata-store-read-cache-bytes -d 'The index\'s block cache [default: memory / 32, from 16 MiB to 128 MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l metadata-store-max-open-files -d 'The index\'s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l bind -d 'The address both listeners bind to [default: 127.0.0.1]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l port -d 'The port for build tools, 0 for any free one [default: 4000]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l internal-port -d 'The port for peers, 0 for any free one [default: 7443]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l node-url -d 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l tenant-id -d 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l region -d 'The region this node says it is in [default: local]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l drain-completion-timeout-ms -d 'How long a drain may take [default: 4m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l peer -d 'A peer\'s base URL, its own allowed; repeat the flag, or separate by commas [default: none]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l discover -d 'A DNS name whose addresses are peers [default: none]' -r -f -a "(__fish_print_hostnames)"
complete -c kura -n "__fish_kura_using_subcommand serve" -l bootstrap-max-concurrent-peers -d 'Peers caught up from at the same time [default: 8]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l bootstrap-concurrency -d 'Artifacts fetched from one peer at the same time [default: 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l tokio-worker-threads -d 'Threads of the async runtime [default: CPUs, from 2 to 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand serve" -l log-level -d 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c kura -n "__fish_kura_using_subcommand serve" -l log-format -d 'How log lines look [default: text]' -r -f -a "text\t''
json\t''"
complete -c kura -n "__fish_kura_using_subcommand serve" -l no-input -d 'Never ask; what would need an answer is refused'
complete -c kura -n "__fish_kura_using_subcommand serve" -s q -l quiet -d 'Say less on stderr'
complete -c kura -n "__fish_kura_using_subcommand serve" -s v -l verbose -d 'Say more on stderr; twice for everything'
complete -c kura -n "__fish_kura_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l concurrency -d 'Artifacts fetched at the same time from one peer; the default is the setting bootstrap-concurrency' -r
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l limit-rate -d 'Take no more than this from all peers together, such as 200MiB/s' -r
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l min-free -d 'Stop with exit code 10 when less than this is free: a share of the volume (10%) or a size (5GiB)' -r
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l max-bytes -d 'Stop with exit code 5 after this many bytes of bodies' -r
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l deadline -d 'Stop with exit code 5 after this long, such as 15m' -r
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l progress -d 'How to show progress' -r -f -a "auto\t'Bars on a terminal, else plain lines'
bar\t'Bars'
plain\t'A line every 10 seconds'
none\t'Nothing'"
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l output -d 'How to print the result' -r -f -a "table\t'For people'
json\t'One JSON document at the end'
jsonl\t'Lines of JSON while it goes on: `status`, `item_error` and, at the end, `summary`'"
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l config -d 'A TOML file with settings [variable: KURA_CONFIG]' -r -F
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l color -d 'Colour the output' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l data-dir -d 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l tmp-dir -d 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l tmp-dir-max-bytes -d 'The staging budget [default: 8GiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l cas-capacity-bytes -d 'Upper bound on stored artifacts [default: what the volume allows]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l durability -d 'What an acknowledged write survives: power loss, or the death of the process [default: power]' -r -f -a "power\t''
process\t''"
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l inline-max-bytes -d 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l max-keyvalue-bytes -d 'Largest key-value entry and inline body from a peer [default: 1MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l multipart-upload-ttl-ms -d 'A multipart upload without progress for this long is dropped [default: 15m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l metadata-store-read-cache-bytes -d 'The index\'s block cache [default: memory / 32, from 16 MiB to 128 MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l metadata-store-max-open-files -d 'The index\'s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l bind -d 'The address both listeners bind to [default: 127.0.0.1]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l port -d 'The port for build tools, 0 for any free one [default: 4000]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l internal-port -d 'The port for peers, 0 for any free one [default: 7443]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l node-url -d 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l tenant-id -d 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l region -d 'The region this node says it is in [default: local]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l drain-completion-timeout-ms -d 'How long a drain may take [default: 4m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l peer -d 'A peer\'s base URL, its own allowed; repeat the flag, or separate by commas [default: none]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l discover -d 'A DNS name whose addresses are peers [default: none]' -r -f -a "(__fish_print_hostnames)"
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l bootstrap-max-concurrent-peers -d 'Peers caught up from at the same time [default: 8]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l bootstrap-concurrency -d 'Artifacts fetched from one peer at the same time [default: 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l tokio-worker-threads -d 'Threads of the async runtime [default: CPUs, from 2 to 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l log-level -d 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l log-format -d 'How log lines look [default: text]' -r -f -a "text\t''
json\t''"
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l rebuild-index -d 'Make the index anew from body files and deletes on record first; works without peers too'
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l new-identity -d 'Give a cloned volume a store id of its own first; works without peers too'
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l dry-run -d 'Show what would be fetched and change nothing'
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l restart -d 'Forget how far each peer was followed and list everything again; never forgets data'
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -l no-input -d 'Never ask; what would need an answer is refused'
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -s q -l quiet -d 'Say less on stderr'
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -s v -l verbose -d 'Say more on stderr; twice for everything'
complete -c kura -n "__fish_kura_using_subcommand bootstrap" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l kind -d 'Only this area; may be given several times' -r -f -a "uploads\t'Bodies that clients or peers were sending'
parts\t'Parts of multipart uploads'
bootstrap\t'Bodies that were being fetched from peers'"
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l until-free -d 'Stop once this much is free: a share of the volume (10%) or a size (5GiB)' -r
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l if-below -d 'Do nothing unless less than this is free' -r
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l older-than -d 'Only what was not changed for this long, such as 15m or 7d' -r
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l output -d 'How to print the result' -r -f -a "table\t'For people'
json\t'One JSON document'"
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l config -d 'A TOML file with settings [variable: KURA_CONFIG]' -r -F
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l color -d 'Colour the output' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l data-dir -d 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l tmp-dir -d 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l tmp-dir-max-bytes -d 'The staging budget [default: 8GiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l cas-capacity-bytes -d 'Upper bound on stored artifacts [default: what the volume allows]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l durability -d 'What an acknowledged write survives: power loss, or the death of the process [default: power]' -r -f -a "power\t''
process\t''"
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l inline-max-bytes -d 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l max-keyvalue-bytes -d 'Largest key-value entry and inline body from a peer [default: 1MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l multipart-upload-ttl-ms -d 'A multipart upload without progress for this long is dropped [default: 15m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l metadata-store-read-cache-bytes -d 'The index\'s block cache [default: memory / 32, from 16 MiB to 128 MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l metadata-store-max-open-files -d 'The index\'s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l bind -d 'The address both listeners bind to [default: 127.0.0.1]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l port -d 'The port for build tools, 0 for any free one [default: 4000]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l internal-port -d 'The port for peers, 0 for any free one [default: 7443]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l node-url -d 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l tenant-id -d 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l region -d 'The region this node says it is in [default: local]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l drain-completion-timeout-ms -d 'How long a drain may take [default: 4m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l peer -d 'A peer\'s base URL, its own allowed; repeat the flag, or separate by commas [default: none]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l discover -d 'A DNS name whose addresses are peers [default: none]' -r -f -a "(__fish_print_hostnames)"
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l bootstrap-max-concurrent-peers -d 'Peers caught up from at the same time [default: 8]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l bootstrap-concurrency -d 'Artifacts fetched from one peer at the same time [default: 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l tokio-worker-threads -d 'Threads of the async runtime [default: CPUs, from 2 to 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l log-level -d 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l log-format -d 'How log lines look [default: text]' -r -f -a "text\t''
json\t''"
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l dry-run -d 'Show what would be freed and change nothing'
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -s y -l yes -d 'Do it without asking'
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l release-ballast -d 'Also give up the space kept in reserve, unless --until-free is reached without it; a node restores it by itself'
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -l no-input -d 'Never ask; what would need an answer is refused'
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -s q -l quiet -d 'Say less on stderr'
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -s v -l verbose -d 'Say more on stderr; twice for everything'
complete -c kura -n "__fish_kura_using_subcommand reclaim-staging" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l only -d 'Run only these checks or categories' -r
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l skip -d 'Leave these checks or categories out' -r
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l fail-on -d 'What ends with exit code 3' -r -f -a "warn\t'Warnings end with exit code 3, too'
fail\t'Only failures do'"
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l verify -d 'How many bodies to read and hash' -r -f -a "none\t'Read no bodies'
sample\t'Read a few'
all\t'Read each one'"
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l wait -d 'Look again until nothing is found or this long is over, such as 5m' -r
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l bundle -d 'Also write an archive for somebody else to read: findings, status, settings, metrics, logs, and no secrets' -r -F
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l from-bundle -d 'Print the findings of such an archive and look at nothing else' -r -F
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l explain -d 'Print the runbook of a code and look at nothing' -r
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l output -d 'How to show the result' -r -f -a "table\t'Everything, for people'
short\t'Only what is not ok'
json\t'One JSON document'"
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l config -d 'A TOML file with settings [variable: KURA_CONFIG]' -r -F
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l color -d 'Colour the output' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l data-dir -d 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l tmp-dir -d 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l tmp-dir-max-bytes -d 'The staging budget [default: 8GiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l cas-capacity-bytes -d 'Upper bound on stored artifacts [default: what the volume allows]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l durability -d 'What an acknowledged write survives: power loss, or the death of the process [default: power]' -r -f -a "power\t''
process\t''"
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l inline-max-bytes -d 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l max-keyvalue-bytes -d 'Largest key-value entry and inline body from a peer [default: 1MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l multipart-upload-ttl-ms -d 'A multipart upload without progress for this long is dropped [default: 15m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l metadata-store-read-cache-bytes -d 'The index\'s block cache [default: memory / 32, from 16 MiB to 128 MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l metadata-store-max-open-files -d 'The index\'s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l bind -d 'The address both listeners bind to [default: 127.0.0.1]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l port -d 'The port for build tools, 0 for any free one [default: 4000]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l internal-port -d 'The port for peers, 0 for any free one [default: 7443]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l node-url -d 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l tenant-id -d 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l region -d 'The region this node says it is in [default: local]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l drain-completion-timeout-ms -d 'How long a drain may take [default: 4m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l peer -d 'A peer\'s base URL, its own allowed; repeat the flag, or separate by commas [default: none]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l discover -d 'A DNS name whose addresses are peers [default: none]' -r -f -a "(__fish_print_hostnames)"
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l bootstrap-max-concurrent-peers -d 'Peers caught up from at the same time [default: 8]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l bootstrap-concurrency -d 'Artifacts fetched from one peer at the same time [default: 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l tokio-worker-threads -d 'Threads of the async runtime [default: CPUs, from 2 to 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l log-level -d 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l log-format -d 'How log lines look [default: text]' -r -f -a "text\t''
json\t''"
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l offline -d 'Look at files only: ask neither a running node nor peers'
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l online -d 'Insist on a running node: that none answers is an error'
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l list -d 'List all checks and look at nothing'
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -l no-input -d 'Never ask; what would need an answer is refused'
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -s q -l quiet -d 'Say less on stderr'
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -s v -l verbose -d 'Say more on stderr; twice for everything'
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kura -n "__fish_kura_using_subcommand doctor; and not __fish_seen_subcommand_from artifact" -f -a "artifact" -d 'Explain one artifact: where it is, whether its bytes match, who has it, and why it is not here'
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l output -d 'How to show the result' -r -f -a "table\t'Everything, for people'
short\t'Only what is not ok'
json\t'One JSON document'"
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l config -d 'A TOML file with settings [variable: KURA_CONFIG]' -r -F
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l color -d 'Colour the output' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l data-dir -d 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l tmp-dir -d 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l tmp-dir-max-bytes -d 'The staging budget [default: 8GiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l cas-capacity-bytes -d 'Upper bound on stored artifacts [default: what the volume allows]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l durability -d 'What an acknowledged write survives: power loss, or the death of the process [default: power]' -r -f -a "power\t''
process\t''"
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l inline-max-bytes -d 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l max-keyvalue-bytes -d 'Largest key-value entry and inline body from a peer [default: 1MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l multipart-upload-ttl-ms -d 'A multipart upload without progress for this long is dropped [default: 15m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l metadata-store-read-cache-bytes -d 'The index\'s block cache [default: memory / 32, from 16 MiB to 128 MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l metadata-store-max-open-files -d 'The index\'s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l bind -d 'The address both listeners bind to [default: 127.0.0.1]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l port -d 'The port for build tools, 0 for any free one [default: 4000]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l internal-port -d 'The port for peers, 0 for any free one [default: 7443]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l node-url -d 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l tenant-id -d 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l region -d 'The region this node says it is in [default: local]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l drain-completion-timeout-ms -d 'How long a drain may take [default: 4m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l peer -d 'A peer\'s base URL, its own allowed; repeat the flag, or separate by commas [default: none]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l discover -d 'A DNS name whose addresses are peers [default: none]' -r -f -a "(__fish_print_hostnames)"
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l bootstrap-max-concurrent-peers -d 'Peers caught up from at the same time [default: 8]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l bootstrap-concurrency -d 'Artifacts fetched from one peer at the same time [default: 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l tokio-worker-threads -d 'Threads of the async runtime [default: CPUs, from 2 to 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l log-level -d 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l log-format -d 'How log lines look [default: text]' -r -f -a "text\t''
json\t''"
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l offline -d 'Look at files only: ask neither a running node nor peers'
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l online -d 'Insist on a running node: that none answers is an error'
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -l no-input -d 'Never ask; what would need an answer is refused'
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -s q -l quiet -d 'Say less on stderr'
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -s v -l verbose -d 'Say more on stderr; twice for everything'
complete -c kura -n "__fish_kura_using_subcommand doctor; and __fish_seen_subcommand_from artifact" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kura -n "__fish_kura_using_subcommand completions" -l config -d 'A TOML file with settings [variable: KURA_CONFIG]' -r -F
complete -c kura -n "__fish_kura_using_subcommand completions" -l color -d 'Colour the output' -r -f -a "auto\t'On a terminal, unless NO_COLOR is set'
always\t'Always'
never\t'Never'"
complete -c kura -n "__fish_kura_using_subcommand completions" -l data-dir -d 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand completions" -l tmp-dir -d 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]' -r -f -a "(__fish_complete_directories)"
complete -c kura -n "__fish_kura_using_subcommand completions" -l tmp-dir-max-bytes -d 'The staging budget [default: 8GiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l cas-capacity-bytes -d 'Upper bound on stored artifacts [default: what the volume allows]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l durability -d 'What an acknowledged write survives: power loss, or the death of the process [default: power]' -r -f -a "power\t''
process\t''"
complete -c kura -n "__fish_kura_using_subcommand completions" -l inline-max-bytes -d 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l max-keyvalue-bytes -d 'Largest key-value entry and inline body from a peer [default: 1MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l multipart-upload-ttl-ms -d 'A multipart upload without progress for this long is dropped [default: 15m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l metadata-store-read-cache-bytes -d 'The index\'s block cache [default: memory / 32, from 16 MiB to 128 MiB]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l metadata-store-max-open-files -d 'The index\'s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l bind -d 'The address both listeners bind to [default: 127.0.0.1]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l port -d 'The port for build tools, 0 for any free one [default: 4000]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l internal-port -d 'The port for peers, 0 for any free one [default: 7443]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l node-url -d 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l tenant-id -d 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l region -d 'The region this node says it is in [default: local]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l drain-completion-timeout-ms -d 'How long a drain may take [default: 4m]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l peer -d 'A peer\'s base URL, its own allowed; repeat the flag, or separate by commas [default: none]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l discover -d 'A DNS name whose addresses are peers [default: none]' -r -f -a "(__fish_print_hostnames)"
complete -c kura -n "__fish_kura_using_subcommand completions" -l bootstrap-max-concurrent-peers -d 'Peers caught up from at the same time [default: 8]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l bootstrap-concurrency -d 'Artifacts fetched from one peer at the same time [default: 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l tokio-worker-threads -d 'Threads of the async runtime [default: CPUs, from 2 to 16]' -r -f
complete -c kura -n "__fish_kura_using_subcommand completions" -l log-level -d 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c kura -n "__fish_kura_using_subcommand completions" -l log-format -d 'How log lines look [default: text]' -r -f -a "text\t''
json\t''"
complete -c kura -n "__fish_kura_using_subcommand completions" -l no-input -d 'Never ask; what would need an answer is refused'
complete -c kura -n "__fish_kura_using_subcommand completions" -s q -l quiet -d 'Say less on stderr'
complete -c kura -n "__fish_kura_using_subcommand completions" -s v -l verbose -d 'Say more on stderr; twice for everything'
complete -c kura -n "__fish_kura_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
