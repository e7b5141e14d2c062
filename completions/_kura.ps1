
using namespace System.Management.Automation
using namespace System.Management.Automation.Language

Register-ArgumentCompleter -Native -CommandName 'kura' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commandElements = $commandAst.CommandElements
    $command = @(
        'kura'
        for ($i = 1; $i -lt $commandElements.Count; $i++) {
            $element = $commandElements[$i]
            if ($element -isnot [StringConstantExpressionAst] -or
                $element.StringConstantType -ne [StringConstantType]::BareWord -or
                $element.Value.StartsWith('-') -or
                $element.Value -eq $wordToComplete) {
                break
        }
        $element.Value
    }) -join ';'

    $completions = @(switch ($command) {
        'kura' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A TOML file with settings [variable: KURA_CONFIG]')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'Colour the output')
            [CompletionResult]::new('--data-dir', '--data-dir', [CompletionResultType]::ParameterName, 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]')
            [CompletionResult]::new('--tmp-dir', '--tmp-dir', [CompletionResultType]::ParameterName, 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]')
            [CompletionResult]::new('--tmp-dir-max-bytes', '--tmp-dir-max-bytes', [CompletionResultType]::ParameterName, 'The staging budget [default: 8GiB]')
            [CompletionResult]::new('--cas-capacity-bytes', '--cas-capacity-bytes', [CompletionResultType]::ParameterName, 'Upper bound on stored artifacts [default: what the volume allows]')
            [CompletionResult]::new('--durability', '--durability', [CompletionResultType]::ParameterName, 'What an acknowledged write survives: power loss, or the death of the process [default: power]')
            [CompletionResult]::new('--inline-max-bytes', '--inline-max-bytes', [CompletionResultType]::ParameterName, 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]')
            [CompletionResult]::new('--max-keyvalue-bytes', '--max-keyvalue-bytes', [CompletionResultType]::ParameterName, 'Largest key-value entry and inline body from a peer [default: 1MiB]')
            [CompletionResult]::new('--multipart-upload-ttl-ms', '--multipart-upload-ttl-ms', [CompletionResultType]::ParameterName, 'A multipart upload without progress for this long is dropped [default: 24h]')
            [CompletionResult]::new('--metadata-store-read-cache-bytes', '--metadata-store-read-cache-bytes', [CompletionResultType]::ParameterName, 'The index''s block cache [default: memory / 32, from 16 MiB to 128 MiB]')
            [CompletionResult]::new('--metadata-store-max-open-files', '--metadata-store-max-open-files', [CompletionResultType]::ParameterName, 'The index''s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]')
            [CompletionResult]::new('--bind', '--bind', [CompletionResultType]::ParameterName, 'The address both listeners bind to [default: 127.0.0.1]')
            [CompletionResult]::new('--port', '--port', [CompletionResultType]::ParameterName, 'The port for build tools, 0 for any free one [default: 4000]')
            [CompletionResult]::new('--internal-port', '--internal-port', [CompletionResultType]::ParameterName, 'The port for peers, 0 for any free one [default: 7443]')
            [CompletionResult]::new('--node-url', '--node-url', [CompletionResultType]::ParameterName, 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]')
            [CompletionResult]::new('--tenant-id', '--tenant-id', [CompletionResultType]::ParameterName, 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]')
            [CompletionResult]::new('--region', '--region', [CompletionResultType]::ParameterName, 'The region this node says it is in [default: local]')
            [CompletionResult]::new('--drain-completion-timeout-ms', '--drain-completion-timeout-ms', [CompletionResultType]::ParameterName, 'How long a drain may take [default: 4m]')
            [CompletionResult]::new('--peer', '--peer', [CompletionResultType]::ParameterName, 'A peer''s base URL, its own allowed; repeat the flag, or separate by commas [default: none]')
            [CompletionResult]::new('--discover', '--discover', [CompletionResultType]::ParameterName, 'A DNS name whose addresses are peers [default: none]')
            [CompletionResult]::new('--bootstrap-max-concurrent-peers', '--bootstrap-max-concurrent-peers', [CompletionResultType]::ParameterName, 'Peers caught up from at the same time [default: 8]')
            [CompletionResult]::new('--bootstrap-concurrency', '--bootstrap-concurrency', [CompletionResultType]::ParameterName, 'Artifacts fetched from one peer at the same time [default: 16]')
            [CompletionResult]::new('--tokio-worker-threads', '--tokio-worker-threads', [CompletionResultType]::ParameterName, 'Threads of the async runtime [default: CPUs, from 2 to 16]')
            [CompletionResult]::new('--log-level', '--log-level', [CompletionResultType]::ParameterName, 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]')
            [CompletionResult]::new('--log-format', '--log-format', [CompletionResultType]::ParameterName, 'How log lines look [default: text]')
            [CompletionResult]::new('--no-input', '--no-input', [CompletionResultType]::ParameterName, 'Never ask; what would need an answer is refused')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say less on stderr')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say less on stderr')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr; twice for everything')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr; twice for everything')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('serve', 'serve', [CompletionResultType]::ParameterValue, 'Serve artifacts to build tools and keep peers in sync')
            [CompletionResult]::new('reclaim-staging', 'reclaim-staging', [CompletionResultType]::ParameterValue, 'Free what was never committed; never touches data')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print a completion script for a shell')
            break
        }
        'kura;serve' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A TOML file with settings [variable: KURA_CONFIG]')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'Colour the output')
            [CompletionResult]::new('--data-dir', '--data-dir', [CompletionResultType]::ParameterName, 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]')
            [CompletionResult]::new('--tmp-dir', '--tmp-dir', [CompletionResultType]::ParameterName, 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]')
            [CompletionResult]::new('--tmp-dir-max-bytes', '--tmp-dir-max-bytes', [CompletionResultType]::ParameterName, 'The staging budget [default: 8GiB]')
            [CompletionResult]::new('--cas-capacity-bytes', '--cas-capacity-bytes', [CompletionResultType]::ParameterName, 'Upper bound on stored artifacts [default: what the volume allows]')
            [CompletionResult]::new('--durability', '--durability', [CompletionResultType]::ParameterName, 'What an acknowledged write survives: power loss, or the death of the process [default: power]')
            [CompletionResult]::new('--inline-max-bytes', '--inline-max-bytes', [CompletionResultType]::ParameterName, 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]')
            [CompletionResult]::new('--max-keyvalue-bytes', '--max-keyvalue-bytes', [CompletionResultType]::ParameterName, 'Largest key-value entry and inline body from a peer [default: 1MiB]')
            [CompletionResult]::new('--multipart-upload-ttl-ms', '--multipart-upload-ttl-ms', [CompletionResultType]::ParameterName, 'A multipart upload without progress for this long is dropped [default: 24h]')
            [CompletionResult]::new('--metadata-store-read-cache-bytes', '--metadata-store-read-cache-bytes', [CompletionResultType]::ParameterName, 'The index''s block cache [default: memory / 32, from 16 MiB to 128 MiB]')
            [CompletionResult]::new('--metadata-store-max-open-files', '--metadata-store-max-open-files', [CompletionResultType]::ParameterName, 'The index''s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]')
            [CompletionResult]::new('--bind', '--bind', [CompletionResultType]::ParameterName, 'The address both listeners bind to [default: 127.0.0.1]')
            [CompletionResult]::new('--port', '--port', [CompletionResultType]::ParameterName, 'The port for build tools, 0 for any free one [default: 4000]')
            [CompletionResult]::new('--internal-port', '--internal-port', [CompletionResultType]::ParameterName, 'The port for peers, 0 for any free one [default: 7443]')
            [CompletionResult]::new('--node-url', '--node-url', [CompletionResultType]::ParameterName, 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]')
            [CompletionResult]::new('--tenant-id', '--tenant-id', [CompletionResultType]::ParameterName, 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]')
            [CompletionResult]::new('--region', '--region', [CompletionResultType]::ParameterName, 'The region this node says it is in [default: local]')
            [CompletionResult]::new('--drain-completion-timeout-ms', '--drain-completion-timeout-ms', [CompletionResultType]::ParameterName, 'How long a drain may take [default: 4m]')
            [CompletionResult]::new('--peer', '--peer', [CompletionResultType]::ParameterName, 'A peer''s base URL, its own allowed; repeat the flag, or separate by commas [default: none]')
            [CompletionResult]::new('--discover', '--discover', [CompletionResultType]::ParameterName, 'A DNS name whose addresses are peers [default: none]')
            [CompletionResult]::new('--bootstrap-max-concurrent-peers', '--bootstrap-max-concurrent-peers', [CompletionResultType]::ParameterName, 'Peers caught up from at the same time [default: 8]')
            [CompletionResult]::new('--bootstrap-concurrency', '--bootstrap-concurrency', [CompletionResultType]::ParameterName, 'Artifacts fetched from one peer at the same time [default: 16]')
            [CompletionResult]::new('--tokio-worker-threads', '--tokio-worker-threads', [CompletionResultType]::ParameterName, 'Threads of the async runtime [default: CPUs, from 2 to 16]')
            [CompletionResult]::new('--log-level', '--log-level', [CompletionResultType]::ParameterName, 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]')
            [CompletionResult]::new('--log-format', '--log-format', [CompletionResultType]::ParameterName, 'How log lines look [default: text]')
            [CompletionResult]::new('--no-input', '--no-input', [CompletionResultType]::ParameterName, 'Never ask; what would need an answer is refused')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say less on stderr')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say less on stderr')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr; twice for everything')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr; twice for everything')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'kura;reclaim-staging' {
            [CompletionResult]::new('--kind', '--kind', [CompletionResultType]::ParameterName, 'Only this area; may be given several times')
            [CompletionResult]::new('--until-free', '--until-free', [CompletionResultType]::ParameterName, 'Stop once this much is free: a share of the volume (10%) or a size (5GiB)')
            [CompletionResult]::new('--if-below', '--if-below', [CompletionResultType]::ParameterName, 'Do nothing unless less than this is free')
            [CompletionResult]::new('--older-than', '--older-than', [CompletionResultType]::ParameterName, 'Only what was not changed for this long, such as 15m or 7d')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'How to print the result')
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A TOML file with settings [variable: KURA_CONFIG]')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'Colour the output')
            [CompletionResult]::new('--data-dir', '--data-dir', [CompletionResultType]::ParameterName, 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]')
            [CompletionResult]::new('--tmp-dir', '--tmp-dir', [CompletionResultType]::ParameterName, 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]')
            [CompletionResult]::new('--tmp-dir-max-bytes', '--tmp-dir-max-bytes', [CompletionResultType]::ParameterName, 'The staging budget [default: 8GiB]')
            [CompletionResult]::new('--cas-capacity-bytes', '--cas-capacity-bytes', [CompletionResultType]::ParameterName, 'Upper bound on stored artifacts [default: what the volume allows]')
            [CompletionResult]::new('--durability', '--durability', [CompletionResultType]::ParameterName, 'What an acknowledged write survives: power loss, or the death of the process [default: power]')
            [CompletionResult]::new('--inline-max-bytes', '--inline-max-bytes', [CompletionResultType]::ParameterName, 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]')
            [CompletionResult]::new('--max-keyvalue-bytes', '--max-keyvalue-bytes', [CompletionResultType]::ParameterName, 'Largest key-value entry and inline body from a peer [default: 1MiB]')
            [CompletionResult]::new('--multipart-upload-ttl-ms', '--multipart-upload-ttl-ms', [CompletionResultType]::ParameterName, 'A multipart upload without progress for this long is dropped [default: 24h]')
            [CompletionResult]::new('--metadata-store-read-cache-bytes', '--metadata-store-read-cache-bytes', [CompletionResultType]::ParameterName, 'The index''s block cache [default: memory / 32, from 16 MiB to 128 MiB]')
            [CompletionResult]::new('--metadata-store-max-open-files', '--metadata-store-max-open-files', [CompletionResultType]::ParameterName, 'The index''s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]')
            [CompletionResult]::new('--bind', '--bind', [CompletionResultType]::ParameterName, 'The address both listeners bind to [default: 127.0.0.1]')
            [CompletionResult]::new('--port', '--port', [CompletionResultType]::ParameterName, 'The port for build tools, 0 for any free one [default: 4000]')
            [CompletionResult]::new('--internal-port', '--internal-port', [CompletionResultType]::ParameterName, 'The port for peers, 0 for any free one [default: 7443]')
            [CompletionResult]::new('--node-url', '--node-url', [CompletionResultType]::ParameterName, 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]')
            [CompletionResult]::new('--tenant-id', '--tenant-id', [CompletionResultType]::ParameterName, 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]')
            [CompletionResult]::new('--region', '--region', [CompletionResultType]::ParameterName, 'The region this node says it is in [default: local]')
            [CompletionResult]::new('--drain-completion-timeout-ms', '--drain-completion-timeout-ms', [CompletionResultType]::ParameterName, 'How long a drain may take [default: 4m]')
            [CompletionResult]::new('--peer', '--peer', [CompletionResultType]::ParameterName, 'A peer''s base URL, its own allowed; repeat the flag, or separate by commas [default: none]')
            [CompletionResult]::new('--discover', '--discover', [CompletionResultType]::ParameterName, 'A DNS name whose addresses are peers [default: none]')
            [CompletionResult]::new('--bootstrap-max-concurrent-peers', '--bootstrap-max-concurrent-peers', [CompletionResultType]::ParameterName, 'Peers caught up from at the same time [default: 8]')
            [CompletionResult]::new('--bootstrap-concurrency', '--bootstrap-concurrency', [CompletionResultType]::ParameterName, 'Artifacts fetched from one peer at the same time [default: 16]')
            [CompletionResult]::new('--tokio-worker-threads', '--tokio-worker-threads', [CompletionResultType]::ParameterName, 'Threads of the async runtime [default: CPUs, from 2 to 16]')
            [CompletionResult]::new('--log-level', '--log-level', [CompletionResultType]::ParameterName, 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]')
            [CompletionResult]::new('--log-format', '--log-format', [CompletionResultType]::ParameterName, 'How log lines look [default: text]')
            [CompletionResult]::new('--dry-run', '--dry-run', [CompletionResultType]::ParameterName, 'Show what would be freed and change nothing')
            [CompletionResult]::new('-y', '-y', [CompletionResultType]::ParameterName, 'Do it without asking')
            [CompletionResult]::new('--yes', '--yes', [CompletionResultType]::ParameterName, 'Do it without asking')
            [CompletionResult]::new('--no-input', '--no-input', [CompletionResultType]::ParameterName, 'Never ask; what would need an answer is refused')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say less on stderr')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say less on stderr')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr; twice for everything')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr; twice for everything')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'kura;completions' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'A TOML file with settings [variable: KURA_CONFIG]')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'Colour the output')
            [CompletionResult]::new('--data-dir', '--data-dir', [CompletionResultType]::ParameterName, 'Where everything durable lies [default: $XDG_STATE_HOME/kura or ~/.local/state/kura]')
            [CompletionResult]::new('--tmp-dir', '--tmp-dir', [CompletionResultType]::ParameterName, 'Where bodies are staged; on the volume of the data dir [default: tmp in the data dir]')
            [CompletionResult]::new('--tmp-dir-max-bytes', '--tmp-dir-max-bytes', [CompletionResultType]::ParameterName, 'The staging budget [default: 8GiB]')
            [CompletionResult]::new('--cas-capacity-bytes', '--cas-capacity-bytes', [CompletionResultType]::ParameterName, 'Upper bound on stored artifacts [default: what the volume allows]')
            [CompletionResult]::new('--durability', '--durability', [CompletionResultType]::ParameterName, 'What an acknowledged write survives: power loss, or the death of the process [default: power]')
            [CompletionResult]::new('--inline-max-bytes', '--inline-max-bytes', [CompletionResultType]::ParameterName, 'Bodies up to this size lie inside the index, larger ones are files [default: 32KiB]')
            [CompletionResult]::new('--max-keyvalue-bytes', '--max-keyvalue-bytes', [CompletionResultType]::ParameterName, 'Largest key-value entry and inline body from a peer [default: 1MiB]')
            [CompletionResult]::new('--multipart-upload-ttl-ms', '--multipart-upload-ttl-ms', [CompletionResultType]::ParameterName, 'A multipart upload without progress for this long is dropped [default: 24h]')
            [CompletionResult]::new('--metadata-store-read-cache-bytes', '--metadata-store-read-cache-bytes', [CompletionResultType]::ParameterName, 'The index''s block cache [default: memory / 32, from 16 MiB to 128 MiB]')
            [CompletionResult]::new('--metadata-store-max-open-files', '--metadata-store-max-open-files', [CompletionResultType]::ParameterName, 'The index''s open files, -1 for no bound [default: half of the file limit, from 128 to 1024]')
            [CompletionResult]::new('--bind', '--bind', [CompletionResultType]::ParameterName, 'The address both listeners bind to [default: 127.0.0.1]')
            [CompletionResult]::new('--port', '--port', [CompletionResultType]::ParameterName, 'The port for build tools, 0 for any free one [default: 4000]')
            [CompletionResult]::new('--internal-port', '--internal-port', [CompletionResultType]::ParameterName, 'The port for peers, 0 for any free one [default: 7443]')
            [CompletionResult]::new('--node-url', '--node-url', [CompletionResultType]::ParameterName, 'Under which peers reach this node; its identity in the mesh [default: http://127.0.0.1:<internal port>]')
            [CompletionResult]::new('--tenant-id', '--tenant-id', [CompletionResultType]::ParameterName, 'The tenant whose artifacts this mesh holds; the same on all its nodes [default: default]')
            [CompletionResult]::new('--region', '--region', [CompletionResultType]::ParameterName, 'The region this node says it is in [default: local]')
            [CompletionResult]::new('--drain-completion-timeout-ms', '--drain-completion-timeout-ms', [CompletionResultType]::ParameterName, 'How long a drain may take [default: 4m]')
            [CompletionResult]::new('--peer', '--peer', [CompletionResultType]::ParameterName, 'A peer''s base URL, its own allowed; repeat the flag, or separate by commas [default: none]')
            [CompletionResult]::new('--discover', '--discover', [CompletionResultType]::ParameterName, 'A DNS name whose addresses are peers [default: none]')
            [CompletionResult]::new('--bootstrap-max-concurrent-peers', '--bootstrap-max-concurrent-peers', [CompletionResultType]::ParameterName, 'Peers caught up from at the same time [default: 8]')
            [CompletionResult]::new('--bootstrap-concurrency', '--bootstrap-concurrency', [CompletionResultType]::ParameterName, 'Artifacts fetched from one peer at the same time [default: 16]')
            [CompletionResult]::new('--tokio-worker-threads', '--tokio-worker-threads', [CompletionResultType]::ParameterName, 'Threads of the async runtime [default: CPUs, from 2 to 16]')
            [CompletionResult]::new('--log-level', '--log-level', [CompletionResultType]::ParameterName, 'error, warn, info, debug or trace, or a list such as info,kura::core::mesh=debug [default: info]')
            [CompletionResult]::new('--log-format', '--log-format', [CompletionResultType]::ParameterName, 'How log lines look [default: text]')
            [CompletionResult]::new('--no-input', '--no-input', [CompletionResultType]::ParameterName, 'Never ask; what would need an answer is refused')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say less on stderr')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say less on stderr')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr; twice for everything')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr; twice for everything')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
