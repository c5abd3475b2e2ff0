#!/bin/sh
# Fence agent of the lab: the interface of fence-agents 4.12 for hosts in network namespaces.
# Off is: the processes of the host are killed and its links go down. On starts nothing: the links
# come up, and who plays the machine starts its programs.
room=$(dirname "$(dirname "$0")")

if [ "$1" = -o ]; then
    cat <<'XML'
<?xml version="1.0" ?>
<resource-agent name="fence_lab" shortdesc="Hosts in network namespaces">
<parameters>
  <parameter name="action" required="1"><content type="string" default="reboot"/></parameter>
  <parameter name="plug" required="1" obsoletes="port"><content type="string"/></parameter>
  <parameter name="port" deprecated="1"><content type="string"/></parameter>
  <parameter name="ip"><content type="string"/></parameter>
  <parameter name="password"><content type="string"/></parameter>
</parameters>
<actions>
  <action name="on" automatic="0"/><action name="off"/><action name="reboot"/>
  <action name="status"/><action name="monitor"/><action name="list"/><action name="metadata"/>
</actions>
</resource-agent>
XML
    exit 0
fi

action=reboot plug= ip=
while IFS= read -r line; do
    case $line in
    action=*) action=${line#action=} ;;
    plug=* | port=*) plug=${line#*=} ;;
    ip=*) ip=${line#ip=} ;;
    esac
done

fail() {
    echo "ERROR: Failed: $1" >&2
    exit 1
}

# One caller at a time, as at many devices.
busy=$room/busy.$ip
if ! mkdir "$busy" 2>/dev/null && kill -0 "$(cat "$busy/pid")" 2>/dev/null; then
    echo "two callers: $action $plug $ip" >>"$room/calls"
fi
echo $$ >"$busy/pid"
trap 'rm -rf "$busy"' EXIT
trap 'exit 1' TERM

mode=$(cat "$room/mode.$ip" 2>/dev/null)
echo "$action${plug:+ $plug}${ip:+ $ip}" >>"$room/calls"
case $mode in
refuses) fail "Unable to connect/login to fencing device" ;;
hangs)
    # Where a shell waits for a child it is deaf to SIGTERM.
    sleep 3600 &
    wait
    exit 1
    ;;
slow) case $action in on | off) sleep 2 ;; esac ;;
esac

host=$room/hosts/$plug
case $action in
monitor) exit 0 ;;
list)
    for one in "$room"/hosts/*; do echo "${one##*/},"; done
    exit 0
    ;;
esac
[ -n "$plug" ] && [ -e "$host" ] || fail "Unable to obtain correct plug status or plug is not available"

# links up|down
links() {
    namespace=$(sed -n 's/^namespace //p' "$host")
    [ -n "$namespace" ] || return 0
    for card in $(ip -n "$namespace" -o link | sed -n 's/^[0-9]*: \(eth[0-9]*\)[@:].*/\1/p'); do
        ip -n "$namespace" link set "$card" "$1"
    done
}

# Whether process $1, which began at $2, runs. Its number may belong to another one by now, and one
# that was killed may wait for its parent.
runs() {
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    since=$2
    set -- ${stat##*) }
    [ "${20}" = "$since" ] && [ "$1" != Z ]
}

off() {
    sed -n 's/^process //p' "$host" | while read -r pid since; do
        while runs "$pid" "$since"; do
            kill -9 "$pid" 2>/dev/null
            sleep 0.01
        done
    done
    links down
    : >"$room/off/$plug"
}

on() {
    links up
    rm -f "$room/off/$plug"
}

case $action in
status)
    if [ -e "$room/off/$plug" ]; then
        echo "Status: OFF"
        exit 2
    fi
    echo "Status: ON"
    ;;
off)
    [ "$mode" = lies ] || off
    echo "Success: Powered OFF"
    ;;
on)
    [ "$mode" = lies ] || on
    echo "Success: Powered ON"
    ;;
reboot)
    off
    on
    echo "Success: Rebooted"
    ;;
*) fail "Unrecognised action '$action'" ;;
esac
