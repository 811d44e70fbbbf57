"""Every message once: as it is written by hand from BSSCI 1.0.0, 4 and 5, and what that means.

The bytes follow the MessagePack format by hand, not by our encoder: `\\x8n` a map of n pairs,
`\\xan` a text of n bytes, `\\x9n` and `\\xdc` a list, `\\xcf` an unsigned integer of 64 bits,
`\\xcb` and `\\xca` a float in double and single precision, `\\xc3` true, `\\xc2` false.
"""

from bssci.core.protocol import messages as m

EUI = 0xFCA84A030000127C
BS_EUI = 0x70B3D59CD0000001
SC_EUI = 0x0102030405060708
TIME = 1_700_000_000_000_000_000
UUID = bytes.fromhex("00010203040506077f80c3ff08090a0b")
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")

_EP_EUI = b"\xa5epEui\xcf\xfc\xa8\x4a\x03\x00\x00\x12\x7c"
_RX_TIME = b"\xa6rxTime\xcf\x17\x97\x9c\xfe\x36\x2a\x00\x00"
_RX_DURATION = b"\xaarxDuration\xcf\x00\x00\x00\x01\x22\x1d\x6e\x5c"
_SNR = b"\xa3snr\xcb\x40\x37\x80\x00\x00\x00\x00\x00"
_RSSI = b"\xa4rssi\xcb\xc0\x51\x10\x00\x00\x00\x00\x00"
_EQ_SNR = b"\xa5eqSnr\xcb\x40\x21\x00\x00\x00\x00\x00\x00"
_PROFILE = b"\xa7profile\xa5eu868"
_UUID = b"\xdc\x00\x10\x00\x01\x02\x03\x04\x05\x06\x07\x7f\xcc\x80\xcc\xc3\xcc\xff\x08\x09\x0a\x0b"
_KEY = (
    b"\xa8nwkSnKey\xdc\x00\x10\x2b\x7e\x15\x16\x28\xcc\xae\xcc\xd2\xcc\xa6"
    b"\xcc\xab\xcc\xf7\x15\xcc\x88\x09\xcc\xcf\x4f\x3c"
)
_SIGN = b"\xa4sign\x94\xcc\xd7\x17\x34\x12"
_SUBPACKETS = (
    b"\xaasubpackets\x84"
    b"\xa3snr\x92\xcb\x40\x37\x80\x00\x00\x00\x00\x00\xcb\xc0\x46\xc0\x00\x00\x00\x00\x00"
    b"\xa4rssi\x92\xcb\xc0\x51\x10\x00\x00\x00\x00\x00\xcb\xc0\x51\x00\x00\x00\x00\x00\x00"
    b"\xa9frequency\x92\xcb\x41\xc9\xde\xbc\x80\xcc\x00\x00\xcb\x41\xc9\xde\xb0\xc8\x70\x00\x00"
    b"\xa5phase\x92\xcb\x40\x56\x80\x00\x00\x00\x00\x00\xcb\xc0\x46\xc0\x00\x00\x00\x00\x00"
)
_RADIO = b"\xa8dualChan\xc3\xaarepetition\xc2\xabwideCarrOff\xc3\xablongBlkDist\xc2"

SUBPACKETS = m.Subpackets(
    snr=(23.5, -45.5),
    rssi=(-68.25, -68.0),
    frequency=(868055297.59375, 868049296.875),
    phase=(90.0, -45.5),
)

SAMPLES: tuple[tuple[bytes, m.Message], ...] = (
    # 5.3
    (
        b"\x8e\xa7command\xa3con\xa4opId\x00"
        b"\xa7version\xa51.0.0"
        b"\xa5bsEui\xcf\x70\xb3\xd5\x9c\xd0\x00\x00\x01"
        b"\xa6vendor\xa4ACME"
        b"\xa5model\xa3GW1"
        b"\xa4name\xa5r\xc3\xb6of"
        b"\xa9swVersion\xa64.10.2"
        b"\xa4info\x81\xa4slot\x02"
        b"\xa4bidi\xc3"
        b"\xabgeoLocation\x93\xcb\x40\x47\xc0\x00\x00\x00\x00\x00\xcb\x40\x29\x80\x00\x00\x00\x00"
        b"\x00\xcb\x40\x72\xc0\x00\x00\x00\x00\x00"
        b"\xa8snBsUuid" + _UUID + b"\xa8snBsOpId\xcc\xcc"
        b"\xa8snScOpId\xd1\xfe\x96",
        m.Connect(
            version="1.0.0",
            bs_eui=BS_EUI,
            vendor="ACME",
            model="GW1",
            name="röof",
            sw_version="4.10.2",
            info={"slot": 2},
            bidi=True,
            geo_location=(47.5, 12.75, 300.0),
            sn_bs_uuid=UUID,
            sn_bs_op_id=204,
            sn_sc_op_id=-362,
        ),
    ),
    (
        b"\x8b\xa7command\xa6conRsp\xa4opId\x00"
        b"\xa7version\xa51.0.0"
        b"\xa5scEui\xcf\x01\x02\x03\x04\x05\x06\x07\x08"
        b"\xa6vendor\xa4ACME"
        b"\xa5model\xa2SC"
        b"\xa4name\xa5bssci"
        b"\xa9swVersion\xa50.1.0"
        b"\xa4info\xa0"
        b"\xa8snResume\xc2"
        b"\xa8snScUuid" + _UUID,
        m.ConnectResponse(
            version="1.0.0",
            sc_eui=SC_EUI,
            vendor="ACME",
            model="SC",
            name="bssci",
            sw_version="0.1.0",
            info="",
            sn_resume=False,
            sn_sc_uuid=UUID,
        ),
    ),
    (b"\x82\xa7command\xa6conCmp\xa4opId\x00", m.ConnectComplete()),
    # 5.4
    (b"\x82\xa7command\xa4ping\xa4opId\x05", m.Ping(op_id=5)),
    (b"\x82\xa7command\xa7pingRsp\xa4opId\xcc\x80", m.PingResponse(op_id=128)),
    (b"\x82\xa7command\xa7pingCmp\xa4opId\xcd\x01\x00", m.PingComplete(op_id=256)),
    # 5.5
    (b"\x82\xa7command\xa6status\xa4opId\xfd", m.Status(op_id=-3)),
    (
        b"\x8c\xa7command\xa9statusRsp\xa4opId\xfd"
        b"\xa4code\x00"
        b"\xa7message\xa2ok"
        b"\xa4time\xcf\x17\x97\x9c\xfe\x36\x2a\x00\x00"
        b"\xa9dutyCycle\xcb\x3f\xd0\x00\x00\x00\x00\x00\x00"
        b"\xabgeoLocation\x93\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xcb\x00\x00\x00\x00\x00\x00\x00"
        b"\x00\xcb\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\xa6uptime\xce\x00\x1a\x21\x5d"
        b"\xa4temp\xcb\x40\x47\xc0\x00\x00\x00\x00\x00"
        b"\xa7cpuLoad\xcb\x40\x13\x99\x99\x99\x99\x99\x9a"
        b"\xa7memLoad\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00"
        b"\xa6config\x80",
        m.StatusResponse(
            op_id=-3,
            code=0,
            message="ok",
            time=TIME,
            duty_cycle=0.25,
            geo_location=(0.0, 0.0, 0.0),
            uptime=1712477,
            temp=47.5,
            cpu_load=4.9,
            mem_load=0.5,
            config={},
        ),
    ),
    (b"\x82\xa7command\xa9statusCmp\xa4opId\xd0\x80", m.StatusComplete(op_id=-128)),
    # 5.6
    (
        b"\xde\x00\x12\xa7command\xa3att\xa4opId\x05"
        + _EP_EUI
        + _RX_TIME
        + _RX_DURATION
        + b"\xa9attachCnt\xce\x00\xff\xff\xff"
        + _SNR
        + _RSSI
        + _EQ_SNR
        + _PROFILE
        + _SUBPACKETS
        + b"\xa5nonce\x94\xcc\xa1\xcc\xb2\xcc\xc3\xcc\xd4"
        + _SIGN
        + b"\xa6shAddr\xcd\x12\x7c"
        + _RADIO,
        m.Attach(
            op_id=5,
            ep_eui=EUI,
            rx_time=TIME,
            rx_duration=4867321436,
            attach_cnt=0xFFFFFF,
            snr=23.5,
            rssi=-68.25,
            eq_snr=8.5,
            profile="eu868",
            subpackets=SUBPACKETS,
            nonce=bytes.fromhex("a1b2c3d4"),
            sign=bytes.fromhex("d7173412"),
            sh_addr=0x127C,
            dual_chan=True,
            repetition=False,
            wide_carr_off=True,
            long_blk_dist=False,
        ),
    ),
    (
        b"\x84\xa7command\xa6attRsp\xa4opId\x05" + _KEY + b"\xa6shAddr\xcd\x12\x7c",
        m.AttachResponse(op_id=5, nwk_sn_key=KEY, sh_addr=0x127C),
    ),
    (b"\x82\xa7command\xa6attCmp\xa4opId\x05", m.AttachComplete(op_id=5)),
    # 5.7
    (
        b"\x8c\xa7command\xa3det\xa4opId\x05"
        + _EP_EUI
        + _RX_TIME
        + _RX_DURATION
        + b"\xa9packetCnt\xcd\x48\xaf"
        + _SNR
        + _RSSI
        + _EQ_SNR
        + _PROFILE
        + _SUBPACKETS
        + _SIGN,
        m.Detach(
            op_id=5,
            ep_eui=EUI,
            rx_time=TIME,
            rx_duration=4867321436,
            packet_cnt=18607,
            snr=23.5,
            rssi=-68.25,
            eq_snr=8.5,
            profile="eu868",
            subpackets=SUBPACKETS,
            sign=bytes.fromhex("d7173412"),
        ),
    ),
    (
        b"\x83\xa7command\xa6detRsp\xa4opId\x05" + _SIGN,
        m.DetachResponse(op_id=5, sign=bytes.fromhex("d7173412")),
    ),
    (b"\x82\xa7command\xa6detCmp\xa4opId\x05", m.DetachComplete(op_id=5)),
    # 5.8
    (
        b"\x8b\xa7command\xa6attPrp\xa4opId\xfd"
        + _EP_EUI
        + b"\xa4bidi\xc3"
        + _KEY
        + b"\xa6shAddr\xcd\x12\x7c"
        + b"\xadlastPacketCnt\xce\xff\xff\xff\xff"
        + _RADIO,
        m.AttachPropagate(
            op_id=-3,
            ep_eui=EUI,
            bidi=True,
            nwk_sn_key=KEY,
            sh_addr=0x127C,
            last_packet_cnt=2**32 - 1,
            dual_chan=True,
            repetition=False,
            wide_carr_off=True,
            long_blk_dist=False,
        ),
    ),
    (b"\x82\xa7command\xa9attPrpRsp\xa4opId\xfd", m.AttachPropagateResponse(op_id=-3)),
    (b"\x82\xa7command\xa9attPrpCmp\xa4opId\xfd", m.AttachPropagateComplete(op_id=-3)),
    # 5.9
    (
        b"\x83\xa7command\xa6detPrp\xa4opId\xd1\xb0\x8e" + _EP_EUI,
        m.DetachPropagate(op_id=-20338, ep_eui=EUI),
    ),
    (b"\x82\xa7command\xa9detPrpRsp\xa4opId\xfd", m.DetachPropagateResponse(op_id=-3)),
    (b"\x82\xa7command\xa9detPrpCmp\xa4opId\xfd", m.DetachPropagateComplete(op_id=-3)),
    # 5.10
    (
        b"\xde\x00\x11\xa7command\xa6ulData\xa4opId\x05"
        + _EP_EUI
        + _RX_TIME
        + _RX_DURATION
        + b"\xa9packetCnt\xcd\x48\xaf"
        + _SNR
        + _RSSI
        + _EQ_SNR
        + _PROFILE
        + b"\xa4mode\xa3ulp"
        + _SUBPACKETS
        + b"\xa8userData\x93\x11\x32\xcc\x86"
        + b"\xa6format\xcc\xc0"
        + b"\xa6dlOpen\xc3"
        + b"\xabresponseExp\xc3"
        + b"\xa5dlAck\xc2",
        m.UplinkData(
            op_id=5,
            ep_eui=EUI,
            rx_time=TIME,
            rx_duration=4867321436,
            packet_cnt=18607,
            snr=23.5,
            rssi=-68.25,
            eq_snr=8.5,
            profile="eu868",
            mode="ulp",
            subpackets=SUBPACKETS,
            user_data=b"\x11\x32\x86",
            format=192,
            dl_open=True,
            response_exp=True,
            dl_ack=False,
        ),
    ),
    (b"\x82\xa7command\xa9ulDataRsp\xa4opId\x05", m.UplinkDataResponse(op_id=5)),
    (b"\x82\xa7command\xa9ulDataCmp\xa4opId\x05", m.UplinkDataComplete(op_id=5)),
    # 5.11
    (
        b"\x89\xa7command\xa8ulDataTx\xa4opId\xfd"
        + _EP_EUI
        + _KEY
        + b"\xa6shAddr\xcd\x12\x7c"
        + b"\xa9packetCnt\xcd\x48\xaf"
        + _PROFILE
        + b"\xa8userData\x90"
        + b"\xa6format\x01",
        m.UplinkDataTransmit(
            op_id=-3,
            ep_eui=EUI,
            nwk_sn_key=KEY,
            sh_addr=0x127C,
            packet_cnt=18607,
            profile="eu868",
            user_data=b"",
            format=1,
        ),
    ),
    (b"\x82\xa7command\xabulDataTxRsp\xa4opId\xfd", m.UplinkDataTransmitResponse(op_id=-3)),
    (b"\x82\xa7command\xabulDataTxCmp\xa4opId\xfd", m.UplinkDataTransmitComplete(op_id=-3)),
    # 5.12
    (
        b"\x8d\xa7command\xa9dlDataQue\xa4opId\xfd"
        + _EP_EUI
        + b"\xa5queId\xcf\x00\x00\x01\x00\x00\x00\x00\x05"
        + b"\xa9cntDepend\xc3"
        + b"\xa9packetCnt\x92\xcd\x48\xaf\xcd\x48\xb0"
        + b"\xa8userData\x92\x91\x01\x92\x02\xcc\xff"
        + b"\xa6format\x00"
        + b"\xa4prio\xca\x41\x28\x00\x00"
        + b"\xabresponseExp\xc3"
        + b"\xacresponsePrio\xc3"
        + b"\xa9dlWindReq\xc3"
        + b"\xa7expOnly\xc3",
        m.DownlinkDataQueue(
            op_id=-3,
            ep_eui=EUI,
            que_id=2**40 + 5,
            cnt_depend=True,
            packet_cnt=(18607, 18608),
            user_data=(b"\x01", b"\x02\xff"),
            format=0,
            prio=10.5,
            response_exp=True,
            response_prio=True,
            dl_wind_req=True,
            exp_only=True,
        ),
    ),
    (b"\x82\xa7command\xacdlDataQueRsp\xa4opId\xfd", m.DownlinkDataQueueResponse(op_id=-3)),
    (b"\x82\xa7command\xacdlDataQueCmp\xa4opId\xfd", m.DownlinkDataQueueComplete(op_id=-3)),
    # 5.13
    (
        b"\x84\xa7command\xa9dlDataRev\xa4opId\xfd" + _EP_EUI + b"\xa5queId\x07",
        m.DownlinkDataRevoke(op_id=-3, ep_eui=EUI, que_id=7),
    ),
    (b"\x82\xa7command\xacdlDataRevRsp\xa4opId\xfd", m.DownlinkDataRevokeResponse(op_id=-3)),
    (b"\x82\xa7command\xacdlDataRevCmp\xa4opId\xfd", m.DownlinkDataRevokeComplete(op_id=-3)),
    # 5.14
    (
        b"\x87\xa7command\xa9dlDataRes\xa4opId\x05"
        + _EP_EUI
        + b"\xa5queId\x07"
        + b"\xa6result\xa4sent"
        + b"\xa6txTime\xcf\x17\x97\x9c\xfe\x36\x2a\x00\x00"
        + b"\xa9packetCnt\xcd\x48\xaf",
        m.DownlinkDataResult(
            op_id=5, ep_eui=EUI, que_id=7, result="sent", tx_time=TIME, packet_cnt=18607
        ),
    ),
    (b"\x82\xa7command\xacdlDataResRsp\xa4opId\x05", m.DownlinkDataResultResponse(op_id=5)),
    (b"\x82\xa7command\xacdlDataResCmp\xa4opId\x05", m.DownlinkDataResultComplete(op_id=5)),
    # 5.15
    (
        b"\x87\xa7command\xa8dlRxStat\xa4opId\x05"
        + _EP_EUI
        + _RX_TIME
        + b"\xa9packetCnt\xcd\x48\xaf"
        + b"\xa7dlRxSnr\xcb\x40\x2b\x00\x00\x00\x00\x00\x00"
        + b"\xa8dlRxRssi\xcb\xc0\x58\x60\x00\x00\x00\x00\x00",
        m.DownlinkRxStatus(
            op_id=5,
            ep_eui=EUI,
            rx_time=TIME,
            packet_cnt=18607,
            dl_rx_snr=13.5,
            dl_rx_rssi=-97.5,
        ),
    ),
    (b"\x82\xa7command\xabdlRxStatRsp\xa4opId\x05", m.DownlinkRxStatusResponse(op_id=5)),
    (b"\x82\xa7command\xabdlRxStatCmp\xa4opId\x05", m.DownlinkRxStatusComplete(op_id=5)),
    # 5.16
    (
        b"\x83\xa7command\xabdlRxStatQry\xa4opId\xfd" + _EP_EUI,
        m.DownlinkRxStatusQuery(op_id=-3, ep_eui=EUI),
    ),
    (b"\x82\xa7command\xaedlRxStatQryRsp\xa4opId\xfd", m.DownlinkRxStatusQueryResponse(op_id=-3)),
    (b"\x82\xa7command\xaedlRxStatQryCmp\xa4opId\xfd", m.DownlinkRxStatusQueryComplete(op_id=-3)),
    # 5.17
    (
        b"\x84\xa7command\xa5error\xa4opId\xfd\xa4code\x5f\xa7message\xb9no matching DL data found",
        m.Error(op_id=-3, code=95, message="no matching DL data found"),
    ),
    (b"\x82\xa7command\xa8errorAck\xa4opId\xfd", m.ErrorAck(op_id=-3)),
    # Variable MAC
    (
        b"\x83\xa7command\xabvm.activate\xa4opId\xfd\xa7macType\x01",
        m.VmActivate(op_id=-3, mac_type=1),
    ),
    (b"\x82\xa7command\xaevm.activateRsp\xa4opId\xfd", m.VmActivateResponse(op_id=-3)),
    (b"\x82\xa7command\xaevm.activateCmp\xa4opId\xfd", m.VmActivateComplete(op_id=-3)),
    (
        b"\x83\xa7command\xadvm.deactivate\xa4opId\xfd\xa7macType\xcc\xff",
        m.VmDeactivate(op_id=-3, mac_type=255),
    ),
    (b"\x82\xa7command\xb0vm.deactivateRsp\xa4opId\xfd", m.VmDeactivateResponse(op_id=-3)),
    (b"\x82\xa7command\xb0vm.deactivateCmp\xa4opId\xfd", m.VmDeactivateComplete(op_id=-3)),
    (b"\x82\xa7command\xa9vm.status\xa4opId\xfd", m.VmStatus(op_id=-3)),
    (
        b"\x83\xa7command\xacvm.statusRsp\xa4opId\xfd\xa8macTypes\x92\x01\xcc\xff",
        m.VmStatusResponse(op_id=-3, mac_types=(1, 255)),
    ),
    (b"\x82\xa7command\xacvm.statusCmp\xa4opId\xfd", m.VmStatusComplete(op_id=-3)),
    (
        b"\x8f\xa7command\xa9vm.ulData\xa4opId\x05"
        b"\xa7macType\x01"
        b"\xa8userData\x92\x2c\xcc\xb4"
        b"\xa7trxTime\xcf\x00\x09\x53\x3f\x0d\x4c\xc1\xc7"
        b"\xa7sysTime\xcf\x17\x97\x9c\xfe\x36\x2a\x00\x00"
        b"\xa7freqOff\xcb\x41\xc9\xdf\x84\x4e\x00\x00\x00"
        + _SNR
        + _RSSI
        + _EQ_SNR
        + _SUBPACKETS
        + b"\xa9carrSpace\x01\xa7pattGrp\x00\xa7pattNum\x02"
        b"\xa3crc\x92\xcc\xc9\xce\xff\xff\xff\xff",
        m.VmUplinkData(
            op_id=5,
            mac_type=1,
            user_data=b"\x2c\xb4",
            trx_time=2624805061575111,
            sys_time=TIME,
            freq_off=868157596.0,
            snr=23.5,
            rssi=-68.25,
            eq_snr=8.5,
            subpackets=SUBPACKETS,
            carr_space=1,
            patt_grp=0,
            patt_num=2,
            crc=(201, 2**32 - 1),
        ),
    ),
    (b"\x82\xa7command\xacvm.ulDataRsp\xa4opId\x05", m.VmUplinkDataResponse(op_id=5)),
    (b"\x82\xa7command\xacvm.ulDataCmp\xa4opId\x05", m.VmUplinkDataComplete(op_id=5)),
    (
        b"\xde\x00\x11\xa7command\xa9vm.dlData\xa4opId\xfd"
        b"\xa7macType\x01"
        b"\xa8userData\x91\x2c"
        b"\xa7trxTime\xcf\x00\x09\x53\x3f\x0d\x4c\xc1\xc7"
        b"\xa7sysTime\xcf\x17\x97\x9c\xfe\x36\x2a\x00\x00"
        b"\xa7freqOff\xcb\x40\x6f\x40\x00\x00\x00\x00\x00"
        b"\xa5ulSnr\xcb\x40\x25\x00\x00\x00\x00\x00\x00"
        b"\xa6ulRssi\xcb\xc0\x56\xa0\x00\x00\x00\x00\x00"
        b"\xaccarrOffRange\x05"
        b"\xa9carrSpace\x01"
        b"\xa5ulCrc\x92\x00\x01"
        b"\xa3tsi\xcd\x3f\xff"
        b"\xa9syncBurst\xc3"
        b"\xa8dualChan\xc3"
        b"\xaarepetition\xc2"
        b"\xablongBlkDist\xc2",
        m.VmDownlinkData(
            op_id=-3,
            mac_type=1,
            user_data=b"\x2c",
            trx_time=2624805061575111,
            sys_time=TIME,
            freq_off=250.0,
            ul_snr=10.5,
            ul_rssi=-90.5,
            carr_off_range=5,
            carr_space=1,
            ul_crc=(0, 1),
            tsi=16383,
            sync_burst=True,
            dual_chan=True,
            repetition=False,
            long_blk_dist=False,
        ),
    ),
    (b"\x82\xa7command\xacvm.dlDataRsp\xa4opId\xfd", m.VmDownlinkDataResponse(op_id=-3)),
    (b"\x82\xa7command\xacvm.dlDataCmp\xa4opId\xfd", m.VmDownlinkDataComplete(op_id=-3)),
)
